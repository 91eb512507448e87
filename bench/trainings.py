"""Short trainings on draws of images: the loss of every update, and how far the network moved."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from warmstart.data.near_duplicates import with_near_duplicates
from warmstart.data.splits import folds
from warmstart.events import drain
from warmstart.features.batches import normalised
from warmstart.features.extraction import extract_features
from warmstart.network.feature_layers import FeatureExtractor
from warmstart.network.ledger import take_digests
from warmstart.network.load import PretrainedModel
from warmstart.planning.schedule import schedule
from warmstart.planning.settings import parse_settings
from warmstart.planning.strategy import parse
from warmstart.records.inputs import pictures
from warmstart.records.network import FeatureLayer
from warmstart.records.plan import Plan
from warmstart.records.run_folder import Clock
from warmstart.request import Request, read_data
from warmstart.run import plan as run_plan
from warmstart.run.base_model import choose_base
from warmstart.run.cleaning import drop_unreadable
from warmstart.solve.calibration import Calibration, log_losses
from warmstart.stats.cka import agreement, cka
from warmstart.training.batches import open_source, read_pixels
from warmstart.training.dataset import TrainingDataset, training_dataset
from warmstart.training.early_stopping import VALIDATIONS, held_scores
from warmstart.training.guards import Alarm, Watch
from warmstart.training.loop import TrainingAttempt, TrainingJob
from warmstart.training.score import fit_on
from warmstart.training.trainable import TrainableNetwork, trainable

MOST = 100  # images of a draw
SIDE = 96  # pixels
HELD = 5  # one part in five judges
PASS = 32  # images in a pass that only looks


@dataclass(frozen=True)
class TrainingSpec:
    """One training: a set, the seed of its draw, what is trained and how fast; what is wrong."""

    name: str
    seed: int
    strategy: str
    factor: float = 1.0  # times the rule's rate
    images_seen: int | None = None  # None: as many as the rule says
    wrong: float = 0.0  # share of the labels that are exchanged among each other
    is_blind: bool = False  # the output sees zeros: a layer before it gives a constant


@dataclass
class Trained:
    """What came of it.

    `shares` counts the classes among what is learnt from. Where training broke off, `ended`
    says why, and what stands below it is missing. `looks`: log-losses of rows held out, one
    list a look; `groups` says which of these rows depend on each other.
    """

    spec: TrainingSpec
    n_steps: int
    warm_up: float
    shares: list[int]
    begins_fitted: bool
    losses: list[float] = field(default_factory=list)
    ended: str = ""
    moved: float | None = None
    end_loss: float | None = None  # of the trained network on what it learnt from
    cka: dict[str, float] = field(default_factory=dict)  # by block that was to change
    agreement: float | None = None
    held: dict[str, float] = field(default_factory=dict)  # log-loss and accuracy
    looks: list[list[float]] = field(default_factory=list)
    groups: list[int] = field(default_factory=list)
    n_joined: int = 1  # groups of blocks


def train_all(specs: list[TrainingSpec], root: Path, file: Path | None) -> list[Trained]:
    """The trained networks of `specs`; those in `file` are not trained again."""
    done = {} if file is None else {t.spec: t for t in _stored(file)}
    draws: dict[tuple[str, int, float], list[TrainingSpec]] = {}
    for spec in specs:
        if spec not in done:
            draws.setdefault((spec.name, spec.seed, spec.wrong), []).append(spec)
    for (name, _, _), wanted in draws.items():
        for trained in _on_draw(root / name / "train", wanted):
            done[trained.spec] = trained
            if file is not None:
                with file.open("a") as out:
                    out.write(json.dumps(asdict(trained)) + "\n")
    return [done[spec] for spec in specs]


def _stored(file: Path) -> Iterator[Trained]:
    if file.exists():
        for line in file.read_text().splitlines():
            values = json.loads(line)
            yield Trained(**{**values, "spec": TrainingSpec(**values["spec"])})


class _Recorder(Watch):
    """Takes the losses down and says nothing."""

    def __init__(self, result: Trained) -> None:
        super().__init__(
            n_steps=result.n_steps,
            warm_up=result.warm_up,
            class_shares=result.shares,
            begins_fitted=result.begins_fitted,
        )
        self.result = result

    def see(self, step: int, loss: float) -> Alarm | None:
        """After a loss that is no number there is nothing more to see."""
        if not math.isfinite(loss):
            return Alarm("diverged", step, f"the loss was {loss}")
        self.result.losses.append(float(f"{loss:.5g}"))
        return None

    def finish(self, moved: float, loss: float | None = None) -> Alarm | None:
        """How far answers moved."""
        self.result.moved = moved
        return None


def _on_draw(folder: Path, specs: list[TrainingSpec]) -> Iterator[Trained]:
    """All trainings on one draw of images: read and looked at once."""
    seed = specs[0].seed
    with tempfile.TemporaryDirectory() as place:
        data = _draw(folder, seed, specs[0].wrong, Path(place))
        request = Request(
            data=data, seed=seed, budget="fast", settings=parse_settings([f"input.size={SIDE}"])
        )
        collection = drain(read_data(request))
        request, base = drain(choose_base(request, collection, Clock()))
        extracted = drain(extract_features(collection, base))
        plain = drop_unreadable(collection, extracted.unreadable)
        training_data = training_dataset(
            with_near_duplicates(plain, ()), extracted, base.record, "fast", seed
        )
        learn = training_data.labelled.learn
        pixels = read_pixels(training_data.collection, learn, training_data.prep)
        images = normalised(pixels.rows(np.arange(len(learn))), pictures(training_data.prep))
        for spec in specs:
            yield _train(request, training_data, base, images, spec)


def _draw(folder: Path, seed: int, wrong: float, place: Path) -> Path:
    """At most MOST images, classes in their proportions; classes of fewer than 5 left out."""
    rng = np.random.default_rng(seed)
    files = sorted(path for path in folder.glob("*/*") if path.is_file())
    chosen = [files[number] for number in np.sort(rng.permutation(len(files))[:MOST])]
    labels = [path.parent.name for path in chosen]
    swapped = rng.permutation(len(chosen))[: round(wrong * len(chosen))]
    for place_of, label in zip(swapped, [labels[n] for n in rng.permutation(swapped)], strict=True):
        labels[place_of] = label
    taken: dict[str, list[Path]] = {}
    for path, label in zip(chosen, labels, strict=True):
        taken.setdefault(label, []).append(path)
    for label, members in taken.items():
        if len(members) >= HELD:
            (place / folder.parent.name / label).mkdir(parents=True)
            for path in members:
                name = f"{path.parent.name}-{path.name}"
                shutil.copy(path, place / folder.parent.name / label / name)
    return place / folder.parent.name


def _train(
    request: Request,
    training_data: TrainingDataset,
    base: PretrainedModel,
    images: Tensor,
    spec: TrainingSpec,
) -> Trained:
    plan = _plan(request, training_data, base, spec)
    course, labelled, network = (
        schedule(plan),
        training_data.labelled,
        training_data.extracted.network,
    )
    labels, groups = labelled.labels, labelled.groups()
    part = folds(labels, groups, HELD, np.random.default_rng([spec.seed, 7]))
    keep, held = np.flatnonzero(part > 0), np.flatnonzero(part == 0)
    torch.set_num_threads(1)  # two threads wait for each other where the machine has other work
    head, read = (
        fit_on(training_data, plan, keep),
        training_data.extracted.reader(training_data.examples(keep)),
    )
    job = TrainingJob(
        make=lambda: trainable(network, plan, head, read, spec.seed),
        schedule=course,
        source=drain(open_source(training_data, plan, course)),
        digests=take_digests(network),
        rows=keep,
        held=held,
    )
    attempt = TrainingAttempt(job, 1.0, ())
    is_fresh = "fresh" in attempt.trainable.actions.values()
    counts = np.bincount(labels[keep]).tolist()
    result = Trained(spec, course.n_steps, course.warmup, counts, not is_fresh)
    attempt._watch = _Recorder(result)
    if spec.is_blind:
        attempt.trainable.model.head.register_forward_pre_hook(_blinded)
    before, seen = attempt.validation.predict(held), _see(attempt.trainable, images)
    alarm = drain(attempt.run())
    if alarm is not None:
        result.ended = alarm.sentence
        return result
    _measure(result, attempt, before, labels[held])
    result.groups = groups[held].tolist()
    now = _see(attempt.trainable, images)
    result.cka = {name: cka(seen.features[name], x) for name, x in now.features.items()}
    result.agreement = agreement(seen.output, now.output) if result.cka else None
    return result


def _blinded(_: nn.Module, arguments: tuple[Sequence[Tensor]]) -> tuple[list[Tensor]]:
    """What the output listens to, without anything in it."""
    return ([0 * layer for layer in arguments[0]],)


def _plan(
    request: Request, training_data: TrainingDataset, base: PretrainedModel, spec: TrainingSpec
) -> Plan:
    """The plan of this training: the rule's, its rates times the factor."""

    def made(lr: float | None) -> Plan:
        settings = request.settings
        if spec.images_seen is not None:
            n = len(training_data.labelled.learn)
            epochs = parse_settings([f"training.epochs={spec.images_seen / n:g}"])
            settings = {**settings, **epochs}
        wanted = replace(request, strategy=parse(spec.strategy), lr=lr, settings=settings)
        facts = run_plan.network_facts(wanted, base, training_data.extracted.network, None)
        names = tuple(training_data.probe_layers)
        return run_plan.make_plan(
            wanted, training_data.labelled.facts(), facts, names, training_data.extracted.engine
        )

    plain = made(None)
    if spec.factor == 1 or plain.training.lr is None:
        return plain
    return made(spec.factor * plain.training.lr.number)


def _measure(
    result: Trained,
    attempt: TrainingAttempt,
    before: NDArray[np.float64],
    labels: NDArray[np.int64],
) -> None:
    """Log-losses and accuracy on what was held out, before, on the way and after."""
    looks = [_log_losses(scores, labels) for scores in attempt.validation.scores()[:VALIDATIONS]]
    result.looks = [[float(f"{loss:.4g}") for loss in losses] for losses in looks]
    result.n_joined = attempt.unfreezing.n_joined
    attempt.load_end()
    job = attempt.job
    own = held_scores(attempt.trainable, job.source, job.rows)
    result.end_loss = float(_log_losses(own, job.source.labelled.labels[job.rows]).mean())
    after = held_scores(attempt.trainable, job.source, job.held)
    for when, scores in (("before", before), ("after", after)):
        result.held[f"log_loss_{when}"] = float(_log_losses(scores, labels).mean())
        result.held[f"accuracy_{when}"] = float((scores.argmax(axis=1) == labels).mean())


def _log_losses(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    return log_losses(scores, labels, Calibration(1.0, np.zeros(scores.shape[1])))


@dataclass(frozen=True)
class _Seen:
    """What a network gives for all images. Shapes: features (n, d_part), output (n, K_old)."""

    features: dict[str, NDArray[np.float64]]  # by part that is tuned
    output: NDArray[np.float64]  # of the base model's last layer


def _see(ready: TrainableNetwork, images: Tensor) -> _Seen:
    """Look at all images with the parts as they are now."""
    record = ready.network.record
    moving = [n for n, p in enumerate(record.blocks, 1) if ready.actions.get(p.name) == "tuned"]
    if not moving:
        return _Seen({}, np.empty((0, 0)))
    tapped = FeatureExtractor(
        ready.network, [FeatureLayer(block=number, pool="avg") for number in moving]
    )
    chunks, outputs = [], []
    with torch.inference_mode():
        for inputs in images.split(PASS):
            chunks.append(tapped(inputs))
            outputs.append(ready.network.logits(inputs))
    columns = [torch.cat(list(column)).double().numpy() for column in zip(*chunks, strict=True)]
    names = [record.blocks[number - 1].name for number in moving]
    return _Seen(dict(zip(names, columns, strict=True)), torch.cat(outputs).double().numpy())
