"""An export, for someone who is about to ship it."""

from __future__ import annotations

import shlex
from pathlib import Path

from warmstart.exporting.predict_script import NAME
from warmstart.exporting.readme import agreement_text, example_of, shrunk_text, twin_text
from warmstart.records.export import Exported
from warmstart.terminal.text import column

_MADE_BY_US = (
    "README.md",
    "export.json",
    "labels.json",
    "preprocess.json",
    "tokenizer.json",
    NAME,
)


def export_text(found: Exported, path: Path) -> str:
    """Where it is, that it was checked, what it costs, how it is used."""
    model = {name: n for name, n in found.files.items() if name not in _MADE_BY_US}
    named = ", ".join(f"{name} {n / 1e6:.1f} MB" for name, n in model.items() if n >= 1e5)
    lines = [
        column("Export", f"{path}: {named or ', '.join(model)}"),
        column("Checked", agreement_text(found)),
    ]
    lines += [column("Twin", twin_text(found))] if found.twin else []
    lines += [column("8 bits", shrunk_text(found))] if found.shrunk else []
    script = shlex.quote(str(path / NAME))
    return "\n".join([*lines, column("Use", f"python {script} {example_of(found)}")])
