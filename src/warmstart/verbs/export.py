"""`warmstart export RUN --to FORMAT`: a finished model in a format that needs no warmstart."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from warmstart.errors import UsageError
from warmstart.events import Event, Steps, follow
from warmstart.joints import exporting
from warmstart.joints.exporting import Delivered, Wanted
from warmstart.joints.formats import Source, check_asked
from warmstart.records import Exported
from warmstart.verbs.predictor import load


def export(
    run: Any,
    to: str,
    *,
    out: str | Path | None = None,
    int8: bool = False,
    pixels: bool = False,
    data: Any = None,
    test: Any = None,
    network: nn.Module | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Exported:
    """Write a run's model as ONNX, torch.export, timm, transformers or OpenVINO.

    The same as `warmstart export`. `run` is a `Run` or the path of one; `out` the folder to
    make (default RUN/export/FORMAT). `int8` rounds ONNX to 8 bits and measures what that
    costs, `pixels` takes uint8 images (N, H, W, C) and scales them inside. `data` and `test`
    are the run's images where they are not where the run found them; `network` is the user's
    own module where the run began from one. Every export has been compared with the model in
    a process without warmstart before it is in its place.

    Raises: UsageError for a format that is none or a place in use, RunFolderError without a
    model, ExportError if the export cannot be made or does not agree; then nothing is left.
    """
    path, own = _opened(run, network)
    wanted = Wanted(
        to=check_asked(to, int8, pixels), out=Path(out) if out is not None else None,
        is_int8=int8, with_pixels=pixels, data=data, test=test,
    )  # fmt: skip
    return follow(steps(path, wanted, own), on_event or (lambda event: None)).exported


def steps(run: Path, wanted: Wanted, network: nn.Module | None = None) -> Steps[Delivered]:
    """The same with its events; the folder comes back too. Raises: as `export`."""
    predictor = load(run, network)
    # Exporters write strides down: in channels_last every graph would begin with a transpose.
    model = cast(Any, predictor.model).to(memory_format=torch.contiguous_format)
    source = Source(model, predictor.bundle.record, network, wanted.with_pixels)
    return (yield from exporting.export(run, source, wanted))


def _opened(run: Any, network: nn.Module | None) -> tuple[Path, nn.Module | None]:
    """The folder of a run, and the network that it began from, where it is known."""
    if isinstance(run, (str, Path)):
        return Path(run), network
    path, own = getattr(run, "path", None), getattr(run, "network", None)
    if not isinstance(path, Path):
        raise UsageError(
            f"export() wants a run or the path of its folder, not a {type(run).__name__}."
        )
    return path, network if network is not None else own
