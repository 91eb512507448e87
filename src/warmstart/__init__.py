"""warmstart: fine-tuning on an ordinary computer that measures before it claims.

    import warmstart
    run = warmstart.fit("photos/")
    run.verdict, run.estimate
    warmstart.load("runs/photos").predict("new.jpg").label

Names load on first use, so that importing warmstart costs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "DataError": "warmstart.errors",
    "Preprocessing": "warmstart.records",
    "Run": "warmstart.run",
    "StartError": "warmstart.errors",
    "WarmStartClassifier": "warmstart.estimator",
    "WarmstartError": "warmstart.errors",
    "compare": "warmstart.verbs.compare",
    "export": "warmstart.verbs.export",
    "fit": "warmstart.run",
    "freeze": "warmstart.verbs.freeze",
    "load": "warmstart.run",
    "plan": "warmstart.verbs.plan",
    "resume": "warmstart.run",
    "train": "warmstart.verbs.train",
    "watch": "warmstart.verbs.watch",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name from its home when it is first used."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'warmstart' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Public names, for completion."""
    return __all__
