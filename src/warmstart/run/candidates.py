"""The ship rule, where the depth is not the user's: head, tuned network, or both in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from warmstart.evaluation.metrics import MODEL_VARIANCE
from warmstart.events import Steps, note
from warmstart.features.machine import freed_memory_kept
from warmstart.network.ensemble import put_beside
from warmstart.planning.cached_activations import frozen_prefix
from warmstart.planning.forecast import Allowance
from warmstart.planning.schedule import head_alone
from warmstart.records.data import Example
from warmstart.records.network import FeatureLayer
from warmstart.records.plan import Plan
from warmstart.records.summary import Evidence
from warmstart.solve.kernels import Features
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.intervals import standard_error
from warmstart.stats.paired import hits_difference
from warmstart.tasks.words import change_text, points
from warmstart.training.boosting import beside
from warmstart.training.checkpoint import Checkpoints
from warmstart.training.dataset import LabelledRows, Reader, ReadTap, TrainingDataset
from warmstart.training.fine_tune import FineTuned, tune
from warmstart.training.linear_probe import HeadFit, calibrated_by
from warmstart.training.output import by_tap
from warmstart.training.score import Measured, estimate, score_test
from warmstart.training.ship import HEAD, TUNED, Decision

BLEND = "blend"
LITTLE = 0.005  # of accuracy: below it is the probabilities that made the choice


@dataclass(frozen=True, slots=True)
class CandidatePair:
    """A reader of the taps of tuned layers, and of the start's own beside them."""

    tuned: Reader
    start: Reader

    def __call__(self, examples: Sequence[Example]) -> ReadTap:
        """From examples to the reader of their taps, (n, d_t) each."""
        tuned, start = self.tuned(examples), self.start(examples)

        def read(tap: FeatureLayer) -> Features:
            return start(replace(tap, of="")) if tap.of else tuned(tap)

        return read


def tune_and_weigh(
    scene: TrainingDataset,
    plan: Plan,
    head: HeadFit,
    digests: Mapping[str, str],
    checkpoints: Checkpoints,
    allowance: Allowance,
) -> Steps[FineTuned]:
    """Train as the plan says, then choose what is shipped. Raises: as `tune` does."""
    with freed_memory_kept():
        worked = yield from tune(scene, plan, head, digests, checkpoints, allowance)
    weighed = yield from weigh(scene, plan, head, worked)
    return replace(weighed, beside=(yield from beside(scene, weighed)))


def measure(worked: FineTuned, labelled: LabelledRows, head: HeadFit, is_shipped: bool) -> Measured:
    """The estimate of what ships, that of the linear probe on the same rows, and the test set.

    `head` is the linear probe on the frozen network, fitted on all rows.
    """
    n_folds = max(len(np.unique(head.fold[head.fold >= 0])), 2)
    claimed = estimate(worked.head, labelled)
    found = Measured(
        estimate=claimed,
        linear_probe=estimate(on_rows_of(head, worked.head), labelled, claimed.method),
        gain=worked.gain,
        n_learnt=max(round((1 - 1 / n_folds) * len(labelled.learn)), 1),
    )
    if not labelled.test or not is_shipped:
        return found
    tested, probabilities = score_test(worked.head, labelled, worked.reader(labelled.test))
    return replace(found, test=tested, test_probabilities=probabilities)


def on_rows_of(head: HeadFit, other: HeadFit) -> HeadFit:
    """The linear probe's answers on the rows that `other` was judged on."""
    held = (head.fold >= 0) & (other.fold >= 0)
    return replace(
        head,
        probabilities=np.where(held[:, None], head.probabilities, np.nan),
        fold=np.where(held, head.fold, -1),
    )


def weigh(scene: TrainingDataset, plan: Plan, head: HeadFit, worked: FineTuned) -> Steps[FineTuned]:
    """What is shipped, by rows that were held out; a depth that the user set ships as it is.

    `head` is the linear probe on the frozen network, fitted on all rows.
    """
    decision, fold = worked.decision, worked.held
    if decision is None or fold is None:
        return worked
    probe = np.where((fold >= 0)[:, None], head.probabilities, np.nan)
    found = _carried_out(scene, head, worked, decision)
    found = replace(found, gain=fine_tuning_gain(probe, decision.tuned, scene.labelled, fold))
    if plan.strategy.source != "user":
        yield note("tune", "Compared", found.why)
    return found


def _carried_out(
    scene: TrainingDataset, head: HeadFit, worked: FineTuned, decision: Decision
) -> FineTuned:
    kind = decision.kind
    if kind == HEAD:
        return _head(scene, head, worked, decision)
    if kind == TUNED:
        return _tuned(scene, worked, decision)
    return _blended(scene, head, worked, decision)


def _tuned(scene: TrainingDataset, worked: FineTuned, decision: Decision) -> FineTuned:
    """The fine-tuned network, calibrated as its predictions at full size are."""
    fitted = worked.head
    made = replace(
        fitted,
        weight=(fitted.calibration.temperature * fitted.weight).astype(np.float32),
        bias=_bias(fitted).astype(np.float32),
        probabilities=decision.probabilities,
    )
    made = calibrated_by(made, decision.option.calibration)
    if worked.plan.strategy.source == "user":
        return replace(worked, head=made)
    words, gain = scene.labelled.target.words, points(decision.ahead)
    why = f"{words.than.format(gain)} than the linear probe on held-out examples"
    if decision.ahead < LITTLE:
        why = f"on held-out examples {words.tie}"
    return replace(worked, head=made, why=why)


def _head(
    scene: TrainingDataset, head: HeadFit, worked: FineTuned, decision: Decision
) -> FineTuned:
    """The network as it came: training is reported, and nothing of it is kept."""
    why = f"{_tried(str(worked.plan.strategy.value))} and is no better on held-out examples"
    return replace(
        worked,
        network=scene.look.network,
        head=head,
        reader=scene.look.reader,
        plan=head_alone(worked.plan, why),
        actions=None,
        guards=(),
        shipped="head",
        why=why,
    )


def _tried(strategy: str) -> str:
    if strategy.startswith("scratch"):
        return "the network was trained from scratch beside it"
    return f"{strategy} was fine-tuned beside it"


def _network(strategy: str) -> str:
    return "the network from scratch" if strategy.startswith("scratch") else strategy


def _blended(
    scene: TrainingDataset, head: HeadFit, worked: FineTuned, decision: Decision
) -> FineTuned:
    """Both in one network: the head listens to the tuned layers and to the start's own."""
    option = decision.option
    cut, share = frozen_prefix(worked.plan), option.share
    network = put_beside(worked.network, scene.look.network.trunk, cut)
    record = scene.look.network.record
    tuned = share * worked.head.calibration.temperature
    own = (1 - share) * head.calibration.temperature
    columns = {tap: tuned * weight for tap, weight in by_tap(worked.head, record).items()}
    for tap, weight in by_tap(head, record).items():
        place = tap if tap.part <= cut else replace(tap, of="start")
        columns[place] = columns.get(place, 0.0) + own * weight
    bias = share * _bias(worked.head) + (1 - share) * _bias(head)
    made = replace(
        worked.head,
        name=f"{head.name}+{worked.plan.strategy.value}",
        taps=tuple(columns),
        weight=np.concatenate([*columns.values()], axis=1).astype(np.float32),
        bias=bias.astype(np.float32),
        probabilities=decision.probabilities,
    )
    made = calibrated_by(made, option.calibration)
    words = scene.labelled.target.words
    why = (
        f"on held-out examples an ensemble of {_network(str(worked.plan.strategy.value))} and the "
        f"linear probe ({100 * share:.0f} to {100 * (1 - share):.0f}) gives the best "
        f"{words.answers}"
    )
    if decision.ahead < LITTLE:
        why += f", if hardly {words.hardly}"
    return replace(
        worked,
        network=network,
        head=made,
        reader=CandidatePair(worked.reader, scene.look.reader),
        shipped=BLEND,
        why=why,
    )


def _bias(head: HeadFit) -> Array:
    return head.calibration.temperature * head.bias.astype(np.float64) + head.calibration.bias


def fine_tuning_gain(probe: Array, tuned: Array, labelled: LabelledRows, fold: Rows) -> Evidence:
    """What fine-tuning brought over the linear probe, on rows that neither had learnt from.

    Shapes: probe, tuned (n, K) out-of-fold answers by the same folds; fold (n,), -1 for rows that
    none held out.
    """
    held, target = fold >= 0, labelled.target
    truth, blocks = labelled.labels[held], labelled.blocks()[held]
    before, after = (target.credits(one[held], truth) for one in (probe, tuned))
    is_once = labelled.holdout or fold.max() < 1  # one fold: as a hold-out
    inflation = 1.0 if is_once else MODEL_VARIANCE
    gap = hits_difference(after, before, blocks, inflation)
    loss = target.said_losses(probe[held], truth) - target.said_losses(tuned[held], truth)
    error = float(np.sqrt(inflation)) * standard_error(loss, blocks)
    return Evidence(
        name="tail_gain",
        value=gap.value,
        low=gap.low,
        high=gap.high,
        n=len(truth),
        meaning=(
            f"Fine-tuned against linear probe on the same {len(truth):,} held-out examples: "
            f"{change_text(gap.value, gap.low, gap.high)}."
        ),
        details={
            "log_loss": float(target.said_losses(probe[held], truth).mean()),
            "log_loss_gain": float(loss.mean()),
            "log_loss_error": error,
        },
    )
