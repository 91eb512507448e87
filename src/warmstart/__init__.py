"""warmstart: fine-tuning on an ordinary computer that measures before it claims.

    import warmstart
    run = warmstart.fit("photos/")
    run.verdict, run.estimate
    warmstart.load("runs/photos").predict("new.jpg").label

Names are loaded on first use, so that importing warmstart does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "DataError": "warmstart.errors",
    "Preprocessing": "warmstart.records.inputs",
    "Run": "warmstart.api.run",
    "ModelError": "warmstart.errors",
    "WarmStartClassifier": "warmstart.sklearn.estimators",
    "WarmstartError": "warmstart.errors",
    "compare": "warmstart.run.compare",
    "export": "warmstart.exporting.export",
    "fit": "warmstart.api.run",
    "freeze": "warmstart.api.plan",
    "load": "warmstart.api.run",
    "plan": "warmstart.api.plan",
    "resume": "warmstart.api.run",
    "train": "warmstart.api.train",
    "watch": "warmstart.api.watch",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'warmstart' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Public names."""
    return __all__
