"""`warmstart export`: write a model for other programs, and say what was checked."""

from __future__ import annotations

import shlex
from pathlib import Path

from warmstart.cli.options import COMMON, RUN, Call, Option, Verb
from warmstart.cli.output import print_result, watched
from warmstart.errors import UsageError
from warmstart.events import follow
from warmstart.exporting import FORMATS, check_format
from warmstart.exporting.predict_script import NAME
from warmstart.exporting.readme import agreement_text, quantized_text, single_layer_text
from warmstart.formatting import joined
from warmstart.modalities.registry import MODALITIES
from warmstart.records.answer import Exported
from warmstart.records.run_folder import to_plain
from warmstart.terminal.text import column

# Files beside the model that are not listed.
_SMALL = ("README.md", "export.json", "labels.json", "preprocess.json", "tokenizer.json", NAME)


def export_text(exported: Exported, path: Path) -> str:
    """Path and size, the comparison with the model, what it costs, how to use it."""
    model = {name: n for name, n in exported.files.items() if name not in _SMALL}
    sizes = ", ".join(f"{name} {n / 1e6:.1f} MB" for name, n in model.items() if n >= 1e5)
    lines = [
        column("Export", f"{path}: {sizes or ', '.join(model)}"),
        column("Checked", agreement_text(exported)),
    ]
    lines += [column("Head", single_layer_text(exported))] if exported.single_layer else []
    lines += [column("8 bits", quantized_text(exported))] if exported.quantized else []
    script = shlex.quote(str(path / NAME))
    return "\n".join(
        [*lines, column("Use", f"python {script} {MODALITIES[exported.kind].nouns.typed}")]
    )


def export(call: Call) -> int:
    """Run `warmstart export`: progress on stderr. Raises: UsageError without --to."""
    values, switches = call.values, call.switches
    if "--to" not in values:
        raise UsageError(f"export needs a format: --to {joined(list(FORMATS), 'or')}.")
    with watched(call, "deliver") as show:
        from warmstart.exporting.export import ExportOptions, steps

        is_int8, with_pixels = "--int8" in switches, "--pixels" in switches
        options = ExportOptions(
            to=check_format(values["--to"], is_int8, with_pixels),
            out=call.path("--out"),
            is_int8=is_int8,
            with_pixels=with_pixels,
            data=values.get("--data"),
            test=values.get("--test"),
        )
        path, exported = follow(steps(Path(call.places[0]), options), show)
    record = {"path": str(path), **to_plain(exported)}
    print_result(call, record, lambda: export_text(exported, path))
    return 0


# ---- The formats, by what they hold.

_TO = [f"{to.name} ({to.hint})" if to.hint else to.name for to in FORMATS.values()]
_INT8 = joined([to.name for to in FORMATS.values() if to.has_int8])
_SINGLE_LAYER = joined([to.name for to in FORMATS.values() if to.is_single_layer])
_ANY_HEAD = ", ".join(to.name for to in FORMATS.values() if not to.is_single_layer)

VERB = Verb(
    words="export RUN",
    needs=(RUN,),
    short="export a model for other programs (ONNX ...)",
    about=f"""Writes the model of RUN into a folder that needs no warmstart: network, labels,
    card, and a script that predicts. A separate process compares it with the model on images of
    the run before the folder is moved into place. {_SINGLE_LAYER} hold one linear
    layer on the last features: a multi-layer head is refitted there as a single-layer head,
    with its own accuracy.""",
    options=(
        Option("--to FORMAT", joined(_TO, "or"), " ".join(FORMATS)),
        Option("--out FOLDER", "folder to create (default RUN/export/FORMAT)"),
        Option("--int8", f"{_INT8} quantized to 8 bits: a quarter of the size; measures its cost"),
        Option("--pixels", f"take 8-bit images of the right size; scaling is inside ({_ANY_HEAD})"),
        Option("--data DATA", "the run's images, if they have moved"),
        Option("--test DATA", "its test images, if they were named separately"),
        *COMMON,
    ),
    examples=(
        "warmstart export runs/photos --to onnx",
        "warmstart export runs/photos --to onnx --int8 --pixels --out phone",
        "warmstart export runs/photos --to transformers",
    ),
    run=export,
)
