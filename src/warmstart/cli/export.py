"""`warmstart export`: from the words of a call to an export, and what is printed of it."""

from __future__ import annotations

from pathlib import Path

from warmstart.cli.output import dumps, watcher
from warmstart.cli.parse import Call
from warmstart.errors import UsageError
from warmstart.events import Event, follow
from warmstart.records.codec import to_plain
from warmstart.terminal import export_text


def export(call: Call) -> int:
    """Write one export, progress on stderr. Raises: UsageError without --to."""
    values, switches = call.values, call.switches
    if "--to" not in values:
        raise UsageError("export needs a format: --to onnx, torch, timm, transformers or openvino.")
    run = Path(call.places[0])
    with watcher(call) as watch:
        watch.show(Event(stage="deliver", kind="begin"))
        from warmstart.exporting.export import Wanted, steps
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
        print(export_text.export_text(found.exported, found.path))
    return 0
