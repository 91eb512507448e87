"""From a fitted head to the files a user takes home."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import torch
from numpy.typing import NDArray

import warmstart
from warmstart.delivery.bundle import Bundle, write_bundle
from warmstart.errors import TrainingError
from warmstart.folder import RunFolder, write_json
from warmstart.joints.rows import Arranged, ReadTap
from warmstart.joints.score import calibration_record, head_scores
from warmstart.network.edit import WarmModel, assemble, unique_state
from warmstart.network.parts import Network
from warmstart.records import (
    DataCounts,
    DataRecord,
    Finding,
    ModelRecord,
    StartRecord,
    SuspectLabel,
    Tap,
)
from warmstart.training.head import HeadFit
from warmstart.training.neighbours import fit_neighbours

AGREEMENT = 5e-3  # of the scores' spread: how far the network may be from its stored features


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model comes from: its start, the start cut into parts, and its digests then."""

    start: StartRecord
    network: Network
    digests: Mapping[str, str]


def build_model(origin: Origin, head: HeadFit) -> WarmModel:
    """The trunk and the chosen head as one network."""
    return assemble(
        origin.network,
        head.taps,
        torch.from_numpy(head.weight),
        torch.from_numpy(head.bias),
        head.calibration.temperature,
        torch.from_numpy(head.calibration.bias).float(),
    )


def check_model(model: WarmModel, head: HeadFit, inputs: torch.Tensor, read: ReadTap) -> float:
    """Largest difference between the network and the features its head was fitted on.

    Shapes: inputs (m, C, H, W) normalised; read gives the same m examples' stored taps.
    In units of the scores' standard deviation. Raises: TrainingError beyond 0.5 %.
    """
    with torch.inference_mode():
        taps = torch.cat(model.features(inputs), dim=1).double()
        weight, bias = model.head.weight.double(), model.head.bias.double()
        live = (taps @ weight.T + bias).numpy()
    stored = head_scores(head, read)
    gap = float(np.abs(live - stored).max() / max(float(stored.std()), 1e-12))
    if not gap < AGREEMENT:
        raise TrainingError(
            f"the finished network differs from the features it was fitted on by {gap:.2%} of "
            "their scores' spread; nothing was shipped. Clear the cache (`warmstart cache clear`) "
            "and run again."
        )
    return gap


def write_model(
    folder: RunFolder,
    origin: Origin,
    model: WarmModel,
    head: HeadFit,
    arranged: Arranged,
    read: ReadTap,
    record: DataRecord,
) -> ModelRecord:
    """Write model/: nothing in it depends on the test part."""
    neighbours, unknown_from, nearest = fit_neighbours(read, head.taps, arranged.groups, seed=0)
    described = ModelRecord(
        task=record.task,
        arch=origin.start.arch,
        start=origin.start.name,
        start_sha256=origin.start.sha256,
        head=head.name,
        penalty=head.penalty,
        taps=head.taps,
        classes=record.classes,
        preprocessing=origin.start.preprocessing,
    )
    arrays: dict[str, NDArray[np.generic]] = {
        "points": neighbours.points.astype(np.float16),
        "target": neighbours.sketch.target.astype(np.int32),
        "sign": neighbours.sketch.sign.astype(np.int8),
        "offset": neighbours.offset,
        "scale": neighbours.scale,
    }
    write_bundle(
        folder.path / "model",
        Bundle(
            unique_state(model),
            described,
            calibration_record(head, arranged, unknown_from, nearest),
            arrays,
            [example.id for example in arranged.learn],
        ),
    )
    return described


def hooks(network: Network, taps: Sequence[Tap]) -> tuple[tuple[str, str, str], ...] | None:
    """Per tap the module to hook, the pooling and the layout; None if a tap has no module."""
    found = []
    for tap in taps:
        modules = network.steps.parts[tap.part - 1].modules
        if tap.pool != "neck" and not modules:
            return None
        layout = network.record.parts[tap.part - 1].layout
        found.append((modules[-1] if tap.pool != "neck" else "", tap.pool, layout))
    return tuple(found)


def count_data(
    arranged: Arranged, findings: Sequence[Finding], suspects: Sequence[SuspectLabel]
) -> DataCounts:
    """Sizes for the summary. Items of `unreadable` and `leak` findings are examples."""
    sizes = dict.fromkeys(("unreadable", "duplicate", "leak"), 0)
    for finding in findings:
        if finding.kind in sizes:
            sizes[finding.kind] += len(finding.items)
    return DataCounts(
        train=len(arranged.learn),
        test=len(arranged.test),
        classes=arranged.n_classes,
        unreadable=sizes["unreadable"],
        duplicates=sizes["duplicate"],
        leaks=sizes["leak"],
        suspect_labels=sum(suspect.believed for suspect in suspects),
    )


def write_environment(folder: RunFolder, threads: int) -> None:
    """env.json: what a reader needs to run this again."""
    packages = ("torch", "timm", "numpy", "scipy", "pillow", "onnxruntime")
    write_json(
        folder.path / "env.json",
        {
            "warmstart": warmstart.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "machine": platform.machine(),
            "threads": threads,
            "packages": {name: version(name) for name in packages},
        },
    )
