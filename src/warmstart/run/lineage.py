"""A finished run as a start: what it is called, what it was made from, what it may pass on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from warmstart import events
from warmstart.errors import RunFolderError, StartError
from warmstart.events import Steps
from warmstart.features.extraction import Look
from warmstart.network.architectures import published_config
from warmstart.network.encoder_bases import is_text_start, is_vision_start, is_wave_start
from warmstart.network.feature_layers import tap_width, taps
from warmstart.network.finished_run import RevivedStart, revive
from warmstart.network.hub_folder import is_timm_folder
from warmstart.network.load import Start
from warmstart.network.model_folder import Bundle, read_bundle
from warmstart.network.registry import SHIPPED
from warmstart.network.weights import SUFFIXES
from warmstart.nouns import Nouns, nouns_of
from warmstart.planning import rules
from warmstart.records.data import DataRecord, Finding
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import NetworkRecord, StartRecord
from warmstart.run.past import Past, past_of
from warmstart.training.prior import NOTHING, Inherited, Prior, prior_of

_LIBRARIES = ("timm:", "torchvision:")
NEARLY = "the same or nearly the same {}"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStart(RevivedStart):
    """A run as a start, with what it has learnt from."""

    past: Past


def is_run(start: Any) -> bool:
    """Whether a start is meant to be a run folder: a folder, or a path to none.

    >>> is_run("runs/photos"), is_run("lite0"), is_run("weights/best.pt")
    (True, False, False)
    """
    if not isinstance(start, (str, Path)):
        return False
    name, path = str(start), Path(start)
    if name in SHIPPED or is_text_start(name) or is_wave_start(name):
        return False
    if is_vision_start(name) or is_timm_folder(name):
        return False
    is_path = os.sep in name and not name.startswith(_LIBRARIES) and not path.is_file()
    return path.is_dir() or (is_path and path.suffix not in SUFFIXES)


def start_from_run(
    run: Path, arch: str | None = None, preprocessing: Preprocessing | None = None
) -> RunStart:
    """A run's network, head and history; `preprocessing` replaces the run's own.

    Raises: RunFolderError if it is no run folder, shipped no model, or is damaged; StartError
    for a design of the user's own, or one named beside it.
    """
    if arch is not None:
        raise StartError(f"--arch {arch}: {run} knows its own design; leave --arch away.")
    bundle = read_bundle(run)
    record = bundle.record
    if record.arch.startswith("module:"):
        raise StartError(
            f"{run} began from your own network ({record.arch.partition(':')[2]}); "
            "in Python pass that network as start."
        )
    described = _described(run, bundle)
    if preprocessing is not None:
        described = replace(described, preprocessing=preprocessing)
    try:
        revived = revive(described, bundle.tensors, record.taps, record.beside)
        past = past_of(bundle, described.lineage[1:])  # the oldest is no run
        return RunStart(**{f.name: getattr(revived, f.name) for f in fields(revived)}, past=past)
    except Exception as error:  # an edited config.json makes torch and timm raise what they like
        why = str(error).partition("\n")[0].partition("; ")[0]
        raise RunFolderError(
            f"{run / 'model'} does not hold together ({why}); restore it, or make the run again."
        ) from error


def _described(run: Path, bundle: Bundle) -> StartRecord:
    record, name = bundle.record, own_name(run)
    design = next((s.title for s in SHIPPED.values() if s.arch == record.arch), None)
    design = design.partition(" (")[0] if design else record.arch.partition(":")[2]
    return StartRecord(
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
        lineage=(*(record.lineage or (record.start,)), name),
        added=record.added,
    )


def own_name(run: Path) -> str:
    """As typed; of `runs/latest` what it points to now, for tomorrow it will be another."""
    return str(run.parent / run.readlink()) if run.is_symlink() else str(run)


def ancestors(start: StartRecord) -> tuple[str, ...]:
    """Titles of what a start was made from, the oldest first; a run goes by its name.

    >>> from types import SimpleNamespace as Record
    >>> ancestors(Record(lineage=("lite0", "runs/a", "runs/b")))
    ('EfficientNet-Lite0 (ImageNet)', 'runs/a')
    """
    return tuple(SHIPPED[n].title if n in SHIPPED else n for n in start.lineage[:-1])


def base_model(start: StartRecord) -> str | None:
    """Where the oldest of a start's ancestors is published, as the hub names it.

    >>> from types import SimpleNamespace as Record
    >>> base_model(Record(lineage=("lite0", "runs/a"), name="runs/a"))
    'timm/tf_efficientnet_lite0.in1k'
    """
    return published((*start.lineage, start.name)[0])


def published(start: str) -> str | None:
    """Where a start of that name is published, as the hub names it; None for others.

    >>> published("lite0"), published("module:Net")
    ('timm/tf_efficientnet_lite0.in1k', None)
    """
    arch = SHIPPED[start].arch if start in SHIPPED else start
    if not arch.startswith("timm:"):
        return None
    found = published_config(arch.partition(":")[2]).get("hf_hub_id")
    return str(found) if found else None


def inherit(
    start: Start, network: NetworkRecord, data: DataRecord, look: Look | None = None
) -> Steps[Inherited]:
    """The prior for classes of the same name, where it is knowledge from other images.

    An image that the run learnt from tells the old head its own label: then that head is no
    prior. Where layers were trained on such images every head on them has seen the label,
    and that is reported, as it is where the test part holds them. With a `look` at them,
    near copies of such images count as they do; without, the same bytes alone.
    """
    if not isinstance(start, RunStart):
        return NOTHING
    record, prior = start.record, _prior(start, network, data)
    if prior is None and record.recipe is None:  # the layers are those of a network that saw none
        return NOTHING
    seen = _seen(start.past, data, look)
    why = _why_not(start, data, seen)
    if prior is not None and why is not None:
        prior = None
        yield events.note("look", "Output", f"the old output is not used: {why}")
    if prior is not None:
        text = f"{sum(prior.known):,} of {len(data.classes):,} classes have the name of a class in"
        yield events.note("look", "Output", f"{text} {record.name} and begin from its output")
    if record.recipe is None and prior is None:
        return NOTHING
    leak = _leak(record, data, seen) if seen else None
    if leak is not None:
        yield events.note("look", "Leak", leak.sentence)
    return Inherited(prior, leak)


def _seen(past: Past, data: DataRecord, look: Look | None) -> dict[str, bool]:
    """Ids of examples that a run learnt from, and whether as the very same bytes."""
    seen = {example.id: True for example in data.examples if past.holds(example)}
    if look is not None and set(past.taps) <= set(look.taps):
        rest = [e for e in data.examples if e.id not in seen and e.id not in look.unreadable]
        seen.update({example.id: False for example in past.alike(rest, look.reader)})
    return seen


def _why_not(start: RunStart, data: DataRecord, seen: Mapping[str, bool]) -> str | None:
    """Why the old output is no knowledge from other images; None where it is."""
    learn = [example.id for example in data.examples if example.split != "test"]
    n, name = sum(id in seen for id in learn), start.record.name
    if n:
        nouns = nouns_of(data.kind)
        how = "" if all(seen.get(id, True) for id in learn) else _nearly(nouns)
        return f"{name} learnt from {n:,} of these {nouns.many}{how}"
    if not start.past.is_whole:
        return f"what {name} or a run before it learnt from can no longer be read"
    return None


def _nearly(nouns: Nouns) -> str:
    return f" ({NEARLY.format(nouns.picture)})"


def _prior(start: RevivedStart, network: NetworkRecord, data: DataRecord) -> Prior | None:
    if data.task != "classify":  # older outputs are drawn towards by class
        return None
    n_learn = sum(example.split != "test" for example in data.examples)
    offered = taps(network)
    if n_learn > rules.DUAL_LIMIT or not set(start.taps) <= set(offered):
        return None
    widths = [tap_width(network, tap) for tap in start.taps]
    weight, bias = start.head.weight, start.head.bias
    if sum(widths) != weight.shape[1]:
        return None
    head = weight.double().numpy(), bias.double().numpy()
    return prior_of(start.taps, widths, head, start.record.labels, data.classes)


def _leak(start: StartRecord, data: DataRecord, seen: Mapping[str, bool]) -> Finding:
    found = [example for example in data.examples if example.id in seen]
    tested, test = (sum(e.split == "test" for e in part) for part in (found, data.examples))
    parts = [
        (len(found) - tested, len(data.examples) - test, "training"),
        (tested, test, "test"),
    ]
    nouns = nouns_of(data.kind)
    shown = " and ".join(f"{n:,} of the {of:,} {what} {nouns.many}" for n, of, what in parts if n)
    how = "" if all(seen.values()) else _nearly(nouns)
    return Finding(
        kind="leak",
        sentence=f"{shown} {'is' if len(found) == 1 else 'are'} among those that {start.name} "
        f"learnt from{how}: the figures flatter this run",
        items=tuple(example.id for example in found),
    )
