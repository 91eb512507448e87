"""`warmstart export`: from the words of a call to an export, and what is printed of it."""

from __future__ import annotations

import shlex
from pathlib import Path

from warmstart.cli.output import dumps, watcher
from warmstart.cli.parse import Call
from warmstart.errors import UsageError
from warmstart.events import Event, follow
from warmstart.exporting.predict_script import NAME
from warmstart.exporting.readme import agreement_text, example_of, shrunk_text, single_layer_text
from warmstart.records.export import Exported
from warmstart.records.run_folder import to_plain
from warmstart.terminal.text import column

# ---- An export, for someone who is about to ship it.


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
    lines += [column("Twin", single_layer_text(found))] if found.single_layer else []
    lines += [column("8 bits", shrunk_text(found))] if found.quantized else []
    script = shlex.quote(str(path / NAME))
    return "\n".join([*lines, column("Use", f"python {script} {example_of(found)}")])


def export(call: Call) -> int:
    """Write one export, progress on stderr. Raises: UsageError without --to."""
    values, switches = call.values, call.switches
    if "--to" not in values:
        raise UsageError("export needs a format: --to onnx, torch, timm, transformers or openvino.")
    run = Path(call.places[0])
    with watcher(call) as watch:
        watch.show(Event(stage="deliver", kind="begin"))
        from warmstart.exporting.export import ExportOptions as Wanted
        from warmstart.exporting.export import steps
        from warmstart.exporting.formats import check_asked

        is_int8, with_pixels = "--int8" in switches, "--pixels" in switches
        wanted = Wanted(
            to=check_asked(values["--to"], is_int8, with_pixels),
            out=Path(values["--out"]) if "--out" in values else None,
            is_int8=is_int8,
            with_pixels=with_pixels,
            data=values.get("--data"),
            test=values.get("--test"),
        )
        found = follow(steps(run, wanted), watch.show)
    if "--json" in switches:
        print(dumps({"path": str(found.path), **to_plain(found.exported)}, indent=2))
    else:
        print(export_text(found.exported, found.path))
    return 0
