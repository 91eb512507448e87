"""A finished run as base model: its name, its ancestors, its training data, its head as prior."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from warmstart import events
from warmstart.errors import ModelError, RunFolderError
from warmstart.events import Steps
from warmstart.features.extraction import ExtractedFeatures
from warmstart.modalities.registry import MODALITIES
from warmstart.network.architectures import published_config
from warmstart.network.encoder_bases import is_encoder_base
from warmstart.network.feature_layers import feature_layers, layer_width
from warmstart.network.finished_run import FinishedRunModel, rebuild_finished_run
from warmstart.network.hub import timm_folder_of
from warmstart.network.load import PretrainedModel
from warmstart.network.model_folder import Arrays, Bundle, read_bundle
from warmstart.network.registry import SHIPPED
from warmstart.network.weights import SUFFIXES
from warmstart.planning import rules
from warmstart.records.data import DataRecord, Example, Finding
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import BaseModelRecord, FeatureLayer, NetworkRecord
from warmstart.records.run_folder import read_json
from warmstart.solve.kernels import chunks
from warmstart.tasks.registry import TASKS
from warmstart.training.head_families import NOTHING, Inheritance, Prior, prior_of
from warmstart.training.out_of_distribution import Neighbours, to_nearest_other, unpack

# Every run stores the content hashes of all that its model was ever trained on, including those of
# earlier runs: folders may be moved and renamed.
LEARNT = "learnt"  # an array in neighbours.safetensors: sorted numbers of content hashes
DIGITS = 16  # of a hash: two of a million images share them once in 40 million such sets
ROWS = 512  # examples that are compared at once
TYPICAL = 1000  # stored points, at most, that say how far apart images lie
# A picture is a near-duplicate below NEAR times the distance that the closest LOW of the stored
# ones have to their nearest. In that unit, runs from lite0 on photos of vehicles, cars, hand signs
# and textures: JPEG again at quality 97 at most 0.31, at 85 at most 0.41 (half of them below 0.28);
# other photos of the same classes at least 0.77, 1.01 and 0.87, and 0.62 for textures, but for
# one pair at 0.40 that is two crops of one photo.
NEAR = 0.4
LOW = 0.05

NEARLY = " (the same or nearly the same {})"
_LIBRARIES = ("timm:", "torchvision:")

Read = Callable[[Sequence[Example]], Callable[[FeatureLayer], NDArray[np.float32]]]


def hash_number(sha256: str) -> int:
    """The first 16 hexadecimal digits of a content hash, as a number."""
    return int(sha256[:DIGITS], 16)


@dataclass(frozen=True, slots=True)
class TrainingPast:
    """What a run was trained on: numbers of content hashes, and points in feature space.

    `is_whole`: whether nothing is missing in `hashes`. `points` are of the run's own training
    examples, at `feature_layers` of its network.
    """

    hashes: frozenset[int]
    is_whole: bool
    points: Neighbours
    feature_layers: tuple[FeatureLayer, ...]

    @property
    def inheritable(self) -> frozenset[int] | None:
        """The hashes that a following run stores too; None where some are missing."""
        return self.hashes if self.is_whole else None

    def holds(self, example: Example) -> bool:
        """Whether these very bytes were trained on."""
        return hash_number(example.sha256) in self.hashes

    def near_duplicates(self, examples: Sequence[Example], read: Read) -> list[Example]:
        """Those nearly the same picture as a training example; `read` by the run's network."""
        limit = near_duplicate_limit(self.points.points)
        near: list[Example] = []
        for start in range(0, len(examples) if limit > 0 else 0, ROWS):
            rows = examples[start : start + ROWS]
            points = [
                self.points.place(np.concatenate([chunk[t] for t in self.feature_layers], axis=1))
                for chunk in chunks(read(rows), self.feature_layers)
            ]
            distances, _ = self.points.nearest_to(np.concatenate(points), 1)
            near += [e for e, d in zip(rows, distances, strict=True) if d < limit]
        return near


def near_duplicate_limit(points: NDArray[np.float32]) -> float:
    """The distance below which two of the points (n, w) are of one picture."""
    if len(points) < 2:
        return 0.0
    rows = np.unique(np.linspace(0, len(points) - 1, TYPICAL).astype(int))
    return NEAR * float(np.quantile(to_nearest_other(points, rows), LOW))


def past_of(bundle: Bundle, names: Sequence[str]) -> TrainingPast:
    """The training data of a run: from its model, else from the folders of it and its ancestors."""
    stored, points = bundle.neighbours.get(LEARNT), unpack(bundle.neighbours)
    hashes, is_whole = {int(n) for n in stored} if stored is not None else set(), True
    for name in names if stored is None else ():
        try:
            examples = read_json(Path(name) / "data.json", DataRecord).examples
        except RunFolderError:  # gone, damaged or renamed
            is_whole = False
            continue
        hashes |= {hash_number(e.sha256) for e in examples if e.split != "test"}
    return TrainingPast(frozenset(hashes), is_whole, points, bundle.record.neighbour_layers)


def past_arrays(before: frozenset[int] | None, learn: Sequence[Example]) -> Arrays:
    """The arrays that a run on these examples stores; none where its own past is unknown."""
    if before is None:
        return {}
    numbers = sorted(before | {hash_number(example.sha256) for example in learn})
    return {LEARNT: np.array(numbers, dtype=np.uint64)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunBaseModel(FinishedRunModel):
    """A run as base model, with what it was trained on."""

    past: TrainingPast


def is_run(base: Any) -> bool:
    """Whether a base model is meant to be a run folder: a folder, or a path to nothing.

    >>> is_run("runs/photos"), is_run("lite0"), is_run("weights/best.pt")
    (True, False, False)
    """
    if not isinstance(base, (str, Path)):
        return False
    name, path = str(base), Path(base)
    if name in SHIPPED or is_encoder_base(name) or timm_folder_of(name) is not None:
        return False
    is_path = os.sep in name and not name.startswith(_LIBRARIES) and not path.is_file()
    return path.is_dir() or (is_path and path.suffix not in SUFFIXES)


def base_from_run(
    run: Path, arch: str | None = None, preprocessing: Preprocessing | None = None
) -> RunBaseModel:
    """A run's network, head and training data; `preprocessing` replaces the run's own.

    Raises: RunFolderError if it is no run folder, shipped no model, or is damaged; ModelError
    for a network of the user's own, or an `arch` besides.
    """
    if arch is not None:
        raise ModelError(f"--arch {arch}: {run} knows its own design; omit --arch.")
    bundle = read_bundle(run)
    record = bundle.record
    if record.arch.startswith("module:"):
        raise ModelError(
            f"{run} began from your own network ({record.arch.partition(':')[2]}); "
            "in Python pass that network as base."
        )
    described = _base_record(run, bundle)
    if preprocessing is not None:
        described = replace(described, preprocessing=preprocessing)
    try:
        rebuilt = rebuild_finished_run(
            described, bundle.tensors, record.feature_layers, record.ensemble
        )
        past = past_of(bundle, described.lineage[1:])  # the oldest is no run
        values = {f.name: getattr(rebuilt, f.name) for f in fields(rebuilt)}
        return RunBaseModel(**values, past=past)
    except Exception as error:  # an edited config.json makes torch and timm raise what they like
        why = str(error).partition("\n")[0].partition("; ")[0]
        raise RunFolderError(
            f"{run / 'model'} is damaged ({why}); restore it, or make the run again."
        ) from error


def _base_record(run: Path, bundle: Bundle) -> BaseModelRecord:
    record = bundle.record  # `runs/latest` goes by the run that it points to now
    name = str(run.parent / run.readlink()) if run.is_symlink() else str(run)
    design = next((s.title for s in SHIPPED.values() if s.arch == record.arch), None)
    design = design.partition(" (")[0] if design else record.arch.partition(":")[2]
    return BaseModelRecord(
        name=name,
        title=f"{run.resolve().name} ({design}, {len(record.classes)} classes)",
        arch=record.arch,
        sha256="",
        parameters=0,
        classes=len(record.classes),
        source=f"run {name}",
        preprocessing=record.preprocessing,
        recipe=record.recipe,
        labels=record.classes,
        lineage=(*(record.lineage or (record.base,)), name),
        added=record.added,
    )


def ancestors(base: BaseModelRecord) -> tuple[str, ...]:
    """Titles of what a base model was made from, the oldest first; a run goes by its name."""
    return tuple(SHIPPED[n].title if n in SHIPPED else n for n in base.lineage[:-1])


def base_model(base: BaseModelRecord) -> str | None:
    """Where the oldest ancestor of a base model is published, as the hub names it."""
    return published((*base.lineage, base.name)[0])


def published(base: str) -> str | None:
    """Where a base model of that name is published, as the hub names it; None for others.

    >>> published("lite0"), published("module:Net")
    ('timm/tf_efficientnet_lite0.in1k', None)
    """
    arch = SHIPPED[base].arch if base in SHIPPED else base
    if not arch.startswith("timm:"):
        return None
    hub_id = published_config(arch.partition(":")[2]).get("hf_hub_id")
    return str(hub_id) if hub_id else None


def inherit(
    base: PretrainedModel,
    network: NetworkRecord,
    data: DataRecord,
    extracted: ExtractedFeatures | None = None,
) -> Steps[Inheritance]:
    """The base model's head as prior for classes of the same name, if it saw none of these images.

    A head that was fitted to these labels is no prior. Blocks that were trained on such images,
    and such images in the test set, are data leakage, which is reported. With `extracted`,
    near-duplicates of such images count too; without, only identical bytes.
    """
    if not isinstance(base, RunBaseModel):
        return NOTHING
    record, prior = base.record, _prior(base, network, data)
    if prior is None and record.recipe is None:  # its blocks were trained on none of its images
        return NOTHING
    # Examples that it was trained on, by id: True for the same bytes, False for a near-duplicate.
    overlap = {example.id: True for example in data.examples if base.past.holds(example)}
    if extracted is not None and set(base.past.feature_layers) <= set(extracted.feature_layers):
        done = overlap.keys() | extracted.unreadable.keys()
        rest = [example for example in data.examples if example.id not in done]
        near = base.past.near_duplicates(rest, extracted.reader)
        overlap.update({example.id: False for example in near})
    why = _why_no_prior(base, data, overlap)
    if prior is not None and why is not None:
        prior = None
        yield events.note("features", "Head", f"the old head is not used: {why}")
    if prior is not None:
        n = f"{sum(prior.has_class):,} of {len(data.classes):,} classes"
        text = f"{n} have the name of a class in {record.name} and begin from its head"
        yield events.note("features", "Head", text)
    if record.recipe is None and prior is None:
        return NOTHING
    leak = _leakage(record, data, overlap) if overlap else None
    if leak is not None:
        yield events.note("features", "Leakage", leak.sentence)
    return Inheritance(prior, leak)


def _why_no_prior(base: RunBaseModel, data: DataRecord, overlap: Mapping[str, bool]) -> str | None:
    """Why the old head is no independent prior; None where it is."""
    learn = [e.id for e in data.examples if e.split != "test" and e.id in overlap]
    name = base.record.name
    if learn:
        nouns = MODALITIES[data.kind].nouns
        how = "" if all(overlap[id] for id in learn) else NEARLY.format(nouns.picture)
        return f"{name} was trained on {len(learn):,} of these {nouns.many}{how}"
    if not base.past.is_whole:
        return f"what {name} or a run before it was trained on can no longer be read"
    return None


def _prior(base: FinishedRunModel, network: NetworkRecord, data: DataRecord) -> Prior | None:
    if not TASKS[data.task].has_classes:  # the prior is matched by class name
        return None
    n_learn = sum(example.split != "test" for example in data.examples)
    layers = set(feature_layers(network))
    if n_learn > rules.DUAL_LIMIT or not set(base.feature_layers) <= layers:
        return None
    widths = [layer_width(network, layer) for layer in base.feature_layers]
    weight, bias = base.head.weight, base.head.bias
    if sum(widths) != weight.shape[1]:
        return None
    head = weight.double().numpy(), bias.double().numpy()
    return prior_of(base.feature_layers, widths, head, base.record.labels, data.classes)


def _leakage(base: BaseModelRecord, data: DataRecord, overlap: Mapping[str, bool]) -> Finding:
    leaked = [example for example in data.examples if example.id in overlap]
    tested, test = (sum(e.split == "test" for e in rows) for rows in (leaked, data.examples))
    trained, training = len(leaked) - tested, len(data.examples) - test
    counts = [(trained, training, "training"), (tested, test, "test")]
    nouns = MODALITIES[data.kind].nouns
    parts = [f"{n:,} of the {of:,} {what} {nouns.many}" for n, of, what in counts if n]
    how = "" if all(overlap.values()) else NEARLY.format(nouns.picture)
    trained_on = f"{base.name} was trained on {' and '.join(parts)}{how}"
    sentence = f"{trained_on}: the metrics of this run are too optimistic"
    return Finding(kind="leakage", sentence=sentence, items=tuple(e.id for e in leaked))
