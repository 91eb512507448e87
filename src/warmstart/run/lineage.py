"""A finished run as a start: what it is called, what it was made from, what it may pass on."""

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
from warmstart.network.architectures import published_config
from warmstart.network.encoder_bases import is_text_base, is_vision_base, is_wave_base
from warmstart.network.feature_layers import feature_layers, layer_width
from warmstart.network.finished_run import FinishedRunModel, rebuild_finished_run
from warmstart.network.hub_folder import is_timm_folder
from warmstart.network.load import PretrainedModel
from warmstart.network.model_folder import Arrays, Bundle, read_bundle
from warmstart.network.registry import SHIPPED
from warmstart.network.weights import SUFFIXES
from warmstart.nouns import Nouns, nouns_of
from warmstart.planning import rules
from warmstart.records.data import DataRecord, Example, Finding
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import BaseModelRecord, FeatureLayer, NetworkRecord
from warmstart.records.run_folder import read_json
from warmstart.solve.kernels import chunks
from warmstart.training.out_of_distribution import Neighbours, to_nearest_other, unpack
from warmstart.training.prior import NOTHING, Inherited, Prior, prior_of

# ---- What a run has learnt from, kept inside it: told by bytes, and by how alike pictures look.
#
# Every run keeps the content hashes of all that its model ever learnt from, those of the runs
# before it among them, so that no folder has to be where it was, nor called what it was.


LEARNT = "learnt"  # an array in neighbours.safetensors: sorted numbers of content hashes
DIGITS = 16  # of a hash: two of a million images share them once in 40 million such sets
ROWS = 512  # examples that are compared at once
TYPICAL = 1000  # stored points, at most, that say how far apart images lie
# A picture is a near copy below NEAR times the distance that the closest LOW of the stored ones
# have to their nearest. In that unit, runs from lite0 on photos of vehicles, cars, hand signs and
# textures: JPEG again at quality 97 at most 0.31, at 85 at most 0.41 (half of them below 0.28);
# other photos of the same classes at least 0.77, 1.01 and 0.87, and 0.62 for textures, but for
# one pair at 0.40 that is two crops of one photo.
NEAR = 0.4
LOW = 0.05

Read = Callable[[Sequence[Example]], Callable[[FeatureLayer], NDArray[np.float32]]]


def number(sha256: str) -> int:
    """The first digits of a content hash.

    >>> number("00000000000000ff" + 48 * "0")
    255
    """
    return int(sha256[:DIGITS], 16)


@dataclass(frozen=True, slots=True)
class TrainingPast:
    """What a run has learnt from: numbers of content hashes, and points.

    `is_whole`: whether nothing is missing in `learnt`. `points` are of the examples that the
    run learnt from itself, at `feature_layers` of its own network.
    """

    learnt: frozenset[int]
    is_whole: bool
    points: Neighbours
    feature_layers: tuple[FeatureLayer, ...]

    @property
    def kept(self) -> frozenset[int] | None:
        """What a run that follows is to keep: all of it, or nothing."""
        return self.learnt if self.is_whole else None

    def holds(self, example: Example) -> bool:
        """Whether these very bytes are known to have been learnt from."""
        return number(example.sha256) in self.learnt

    def alike(self, examples: Sequence[Example], read: Read) -> list[Example]:
        """Those that are nearly the same picture as one that the run learnt from.

        `read` gives the features of examples under the run's own network, per tap (n, d_t).
        """
        limit, found = near_duplicate_limit(self.points.points), []
        for start in range(0, len(examples) if limit > 0 else 0, ROWS):
            block = examples[start : start + ROWS]
            joined = [
                self.points.place(
                    np.concatenate([chunk[layer] for layer in self.feature_layers], axis=1)
                )
                for chunk in chunks(read(block), self.feature_layers)
            ]
            distances, _ = self.points.nearest_to(np.concatenate(joined), 1)
            found += [e for e, d in zip(block, distances, strict=True) if d < limit]
        return found


def near_duplicate_limit(points: NDArray[np.float32]) -> float:
    """The distance below which two points are of one picture. Shapes: points (n, w).

    A small part of what the closest of different images have between them.

    >>> round(near_duplicate_limit(np.float32([[0.0], [1.0], [2.0]])), 2)
    0.4
    """
    if len(points) < 2:
        return 0.0
    rows = np.unique(np.linspace(0, len(points) - 1, TYPICAL).astype(int))
    return NEAR * float(np.quantile(to_nearest_other(points, rows), LOW))


def past_of(bundle: Bundle, names: Sequence[str]) -> TrainingPast:
    """What a run keeps of its past; an older one kept nothing, and its folders are asked.

    `names`: the runs that it came from and itself, as folders.
    """
    kept, points = bundle.neighbours.get(LEARNT), unpack(bundle.neighbours)
    if kept is not None:
        return TrainingPast(frozenset(int(n) for n in kept), True, points, bundle.record.own_layers)
    found = [_from_folder(Path(name)) for name in names]
    known = frozenset[int]().union(*(numbers for numbers in found if numbers is not None))
    return TrainingPast(known, None not in found, points, bundle.record.own_layers)


def _from_folder(run: Path) -> frozenset[int] | None:
    """None where the folder is gone, is damaged or has another name today."""
    try:
        examples = read_json(run / "data.json", DataRecord).examples
    except RunFolderError:
        return None
    return frozenset(number(e.sha256) for e in examples if e.split != "test")


def memory(before: frozenset[int] | None, learn: Sequence[Example]) -> Arrays:
    """What a run that learns from these keeps; nothing where its own past is not known."""
    if before is None:
        return {}
    numbers = sorted(before | {number(example.sha256) for example in learn})
    return {LEARNT: np.array(numbers, dtype=np.uint64)}


_LIBRARIES = ("timm:", "torchvision:")
NEARLY = "the same or nearly the same {}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunBaseModel(FinishedRunModel):
    """A run as a start, with what it has learnt from."""

    past: TrainingPast


def is_run(base: Any) -> bool:
    """Whether a start is meant to be a run folder: a folder, or a path to none.

    >>> is_run("runs/photos"), is_run("lite0"), is_run("weights/best.pt")
    (True, False, False)
    """
    if not isinstance(base, (str, Path)):
        return False
    name, path = str(base), Path(base)
    if name in SHIPPED or is_text_base(name) or is_wave_base(name):
        return False
    if is_vision_base(name) or is_timm_folder(name):
        return False
    is_path = os.sep in name and not name.startswith(_LIBRARIES) and not path.is_file()
    return path.is_dir() or (is_path and path.suffix not in SUFFIXES)


def base_from_run(
    run: Path, arch: str | None = None, preprocessing: Preprocessing | None = None
) -> RunBaseModel:
    """A run's network, head and history; `preprocessing` replaces the run's own.

    Raises: RunFolderError if it is no run folder, shipped no model, or is damaged; ModelError
    for a design of the user's own, or one named beside it.
    """
    if arch is not None:
        raise ModelError(f"--arch {arch}: {run} knows its own design; leave --arch away.")
    bundle = read_bundle(run)
    record = bundle.record
    if record.arch.startswith("module:"):
        raise ModelError(
            f"{run} began from your own network ({record.arch.partition(':')[2]}); "
            "in Python pass that network as start."
        )
    described = _described(run, bundle)
    if preprocessing is not None:
        described = replace(described, preprocessing=preprocessing)
    try:
        revived = rebuild_finished_run(
            described, bundle.tensors, record.feature_layers, record.ensemble
        )
        past = past_of(bundle, described.lineage[1:])  # the oldest is no run
        return RunBaseModel(
            **{f.name: getattr(revived, f.name) for f in fields(revived)}, past=past
        )
    except Exception as error:  # an edited config.json makes torch and timm raise what they like
        why = str(error).partition("\n")[0].partition("; ")[0]
        raise RunFolderError(
            f"{run / 'model'} is damaged ({why}); restore it, or make the run again."
        ) from error


def _described(run: Path, bundle: Bundle) -> BaseModelRecord:
    record, name = bundle.record, resolved_name(run)
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


def resolved_name(run: Path) -> str:
    """As typed; of `runs/latest` what it points to now, for tomorrow it will be another."""
    return str(run.parent / run.readlink()) if run.is_symlink() else str(run)


def ancestors(base: BaseModelRecord) -> tuple[str, ...]:
    """Titles of what a start was made from, the oldest first; a run goes by its name.

    >>> from types import SimpleNamespace as Record
    >>> ancestors(Record(lineage=("lite0", "runs/a", "runs/b")))
    ('EfficientNet-Lite0 (ImageNet)', 'runs/a')
    """
    return tuple(SHIPPED[n].title if n in SHIPPED else n for n in base.lineage[:-1])


def base_model(base: BaseModelRecord) -> str | None:
    """Where the oldest of a start's ancestors is published, as the hub names it.

    >>> from types import SimpleNamespace as Record
    >>> base_model(Record(lineage=("lite0", "runs/a"), name="runs/a"))
    'timm/tf_efficientnet_lite0.in1k'
    """
    return published((*base.lineage, base.name)[0])


def published(base: str) -> str | None:
    """Where a start of that name is published, as the hub names it; None for others.

    >>> published("lite0"), published("module:Net")
    ('timm/tf_efficientnet_lite0.in1k', None)
    """
    arch = SHIPPED[base].arch if base in SHIPPED else base
    if not arch.startswith("timm:"):
        return None
    found = published_config(arch.partition(":")[2]).get("hf_hub_id")
    return str(found) if found else None


def inherit(
    base: PretrainedModel,
    network: NetworkRecord,
    data: DataRecord,
    extracted: ExtractedFeatures | None = None,
) -> Steps[Inherited]:
    """The prior for classes of the same name, where it is knowledge from other images.

    An image that the run learnt from tells the old head its own label: then that head is no
    prior. Where layers were trained on such images every head on them has seen the label,
    and that is reported, as it is where the test part holds them. With a `extracted` at them,
    near copies of such images count as they do; without, the same bytes alone.
    """
    if not isinstance(base, RunBaseModel):
        return NOTHING
    record, prior = base.record, _prior(base, network, data)
    if prior is None and record.recipe is None:  # the layers are those of a network that saw none
        return NOTHING
    seen = _seen(base.past, data, extracted)
    why = _why_not(base, data, seen)
    if prior is not None and why is not None:
        prior = None
        yield events.note("features", "Output", f"the old output is not used: {why}")
    if prior is not None:
        text = f"{sum(prior.known):,} of {len(data.classes):,} classes have the name of a class in"
        yield events.note("features", "Output", f"{text} {record.name} and begin from its output")
    if record.recipe is None and prior is None:
        return NOTHING
    leak = _leak(record, data, seen) if seen else None
    if leak is not None:
        yield events.note("features", "Leak", leak.sentence)
    return Inherited(prior, leak)


def _seen(
    past: TrainingPast, data: DataRecord, extracted: ExtractedFeatures | None
) -> dict[str, bool]:
    """Ids of examples that a run learnt from, and whether as the very same bytes."""
    seen = {example.id: True for example in data.examples if past.holds(example)}
    if extracted is not None and set(past.feature_layers) <= set(extracted.feature_layers):
        rest = [e for e in data.examples if e.id not in seen and e.id not in extracted.unreadable]
        seen.update({example.id: False for example in past.alike(rest, extracted.reader)})
    return seen


def _why_not(base: RunBaseModel, data: DataRecord, seen: Mapping[str, bool]) -> str | None:
    """Why the old output is no knowledge from other images; None where it is."""
    learn = [example.id for example in data.examples if example.split != "test"]
    n, name = sum(id in seen for id in learn), base.record.name
    if n:
        nouns = nouns_of(data.kind)
        how = "" if all(seen.get(id, True) for id in learn) else _nearly(nouns)
        return f"{name} learnt from {n:,} of these {nouns.many}{how}"
    if not base.past.is_whole:
        return f"what {name} or a run before it learnt from can no longer be read"
    return None


def _nearly(nouns: Nouns) -> str:
    return f" ({NEARLY.format(nouns.picture)})"


def _prior(base: FinishedRunModel, network: NetworkRecord, data: DataRecord) -> Prior | None:
    if data.task != "classify":  # older outputs are drawn towards by class
        return None
    n_learn = sum(example.split != "test" for example in data.examples)
    offered = feature_layers(network)
    if n_learn > rules.DUAL_LIMIT or not set(base.feature_layers) <= set(offered):
        return None
    widths = [layer_width(network, layer) for layer in base.feature_layers]
    weight, bias = base.head.weight, base.head.bias
    if sum(widths) != weight.shape[1]:
        return None
    head = weight.double().numpy(), bias.double().numpy()
    return prior_of(base.feature_layers, widths, head, base.record.labels, data.classes)


def _leak(base: BaseModelRecord, data: DataRecord, seen: Mapping[str, bool]) -> Finding:
    found = [example for example in data.examples if example.id in seen]
    tested, test = (sum(e.split == "test" for e in block) for block in (found, data.examples))
    blocks = [
        (len(found) - tested, len(data.examples) - test, "training"),
        (tested, test, "test"),
    ]
    nouns = nouns_of(data.kind)
    shown = " and ".join(f"{n:,} of the {of:,} {what} {nouns.many}" for n, of, what in blocks if n)
    how = "" if all(seen.values()) else _nearly(nouns)
    return Finding(
        kind="leakage",
        sentence=f"{shown} {'is' if len(found) == 1 else 'are'} among those that {base.name} "
        f"learnt from{how}: the figures flatter this run",
        items=tuple(example.id for example in found),
    )
