"""The ship rule, where the depth is not the user's: head, tuned network, or both in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from warmstart.evaluation.metrics import MODEL_VARIANCE
from warmstart.events import Steps, note
from warmstart.features.machine import freed_memory_kept
from warmstart.network.ensemble import add_ensemble_branch
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
from warmstart.training.dataset import LabelledRows, Reader, ReadFeatures, TrainingDataset
from warmstart.training.fine_tune import FineTuned, tune
from warmstart.training.linear_probe import HeadFit, calibrated_by
from warmstart.training.output import by_layer
from warmstart.training.score import Measured, estimate, score_test
from warmstart.training.ship import HEAD, TUNED, Decision

ENSEMBLE = "ensemble"
LITTLE = 0.005  # of accuracy: below it is the probabilities that made the choice


@dataclass(frozen=True, slots=True)
class CandidatePair:
    """A reader of the taps of tuned layers, and of the start's own beside them."""

    tuned: Reader
    base: Reader

    def __call__(self, examples: Sequence[Example]) -> ReadFeatures:
        """From examples to the reader of their taps, (n, d_t) each."""
        tuned, base = self.tuned(examples), self.base(examples)

        def read(layer: FeatureLayer) -> Features:
            return base(replace(layer, of="")) if layer.of else tuned(layer)

        return read


def fine_tune_and_choose(
    training_data: TrainingDataset,
    plan: Plan,
    head: HeadFit,
    digests: Mapping[str, str],
    checkpoints: Checkpoints,
    allowance: Allowance,
) -> Steps[FineTuned]:
    """Train as the plan says, then choose what is shipped. Raises: as `tune` does."""
    with freed_memory_kept():
        fine_tuned = yield from tune(training_data, plan, head, digests, checkpoints, allowance)
    weighed = yield from weigh(training_data, plan, head, fine_tuned)
    return replace(weighed, baselines=(yield from beside(training_data, weighed)))


def measure(
    fine_tuned: FineTuned, labelled: LabelledRows, head: HeadFit, is_shipped: bool
) -> Measured:
    """The estimate of what ships, that of the linear probe on the same rows, and the test set.

    `head` is the linear probe on the frozen network, fitted on all rows.
    """
    n_folds = max(len(np.unique(head.fold[head.fold >= 0])), 2)
    claimed = estimate(fine_tuned.head, labelled)
    found = Measured(
        estimate=claimed,
        linear_probe=estimate(restrict_to_rows_of(head, fine_tuned.head), labelled, claimed.method),
        gain=fine_tuned.gain,
        n_learnt=max(round((1 - 1 / n_folds) * len(labelled.learn)), 1),
    )
    if not labelled.test or not is_shipped:
        return found
    tested, probabilities = score_test(fine_tuned.head, labelled, fine_tuned.reader(labelled.test))
    return replace(found, test=tested, test_probabilities=probabilities)


def restrict_to_rows_of(head: HeadFit, other: HeadFit) -> HeadFit:
    """The linear probe's answers on the rows that `other` was judged on."""
    held = (head.fold >= 0) & (other.fold >= 0)
    return replace(
        head,
        probabilities=np.where(held[:, None], head.probabilities, np.nan),
        fold=np.where(held, head.fold, -1),
    )


def weigh(
    training_data: TrainingDataset, plan: Plan, head: HeadFit, fine_tuned: FineTuned
) -> Steps[FineTuned]:
    """What is shipped, by rows that were held out; a depth that the user set ships as it is.

    `head` is the linear probe on the frozen network, fitted on all rows.
    """
    decision, fold = fine_tuned.decision, fine_tuned.held
    if decision is None or fold is None:
        return fine_tuned
    probe = np.where((fold >= 0)[:, None], head.probabilities, np.nan)
    found = _carried_out(training_data, head, fine_tuned, decision)
    found = replace(
        found, gain=fine_tuning_gain(probe, decision.tuned, training_data.labelled, fold)
    )
    if plan.strategy.source != "user":
        yield note("fine_tune", "Compared", found.why)
    return found


def _carried_out(
    training_data: TrainingDataset, head: HeadFit, fine_tuned: FineTuned, decision: Decision
) -> FineTuned:
    kind = decision.kind
    if kind == HEAD:
        return _head(training_data, head, fine_tuned, decision)
    if kind == TUNED:
        return _tuned(training_data, fine_tuned, decision)
    return _blended(training_data, head, fine_tuned, decision)


def _tuned(training_data: TrainingDataset, fine_tuned: FineTuned, decision: Decision) -> FineTuned:
    """The fine-tuned network, calibrated as its predictions at full size are."""
    fitted = fine_tuned.head
    made = replace(
        fitted,
        weight=(fitted.calibration.scale * fitted.weight).astype(np.float32),
        bias=_bias(fitted).astype(np.float32),
        probabilities=decision.probabilities,
    )
    made = calibrated_by(made, decision.option.calibration)
    if fine_tuned.plan.strategy.source == "user":
        return replace(fine_tuned, head=made)
    words, gain = training_data.labelled.target.words, points(decision.ahead)
    why = f"{words.than.format(gain)} than the linear probe on held-out examples"
    if decision.ahead < LITTLE:
        why = f"on held-out examples {words.tie}"
    return replace(fine_tuned, head=made, why=why)


def _head(
    training_data: TrainingDataset, head: HeadFit, fine_tuned: FineTuned, decision: Decision
) -> FineTuned:
    """The network as it came: training is reported, and nothing of it is kept."""
    why = f"{_tried(str(fine_tuned.plan.strategy.value))} and is no better on held-out examples"
    return replace(
        fine_tuned,
        network=training_data.extracted.network,
        head=head,
        reader=training_data.extracted.reader,
        plan=head_alone(fine_tuned.plan, why),
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
    training_data: TrainingDataset, head: HeadFit, fine_tuned: FineTuned, decision: Decision
) -> FineTuned:
    """Both in one network: the head listens to the tuned layers and to the start's own."""
    option = decision.option
    cut, share = frozen_prefix(fine_tuned.plan), option.share
    network = add_ensemble_branch(fine_tuned.network, training_data.extracted.network.backbone, cut)
    record = training_data.extracted.network.record
    tuned = share * fine_tuned.head.calibration.scale
    own = (1 - share) * head.calibration.scale
    columns = {layer: tuned * weight for layer, weight in by_layer(fine_tuned.head, record).items()}
    for layer, weight in by_layer(head, record).items():
        place = layer if layer.block <= cut else replace(layer, of="base")
        columns[place] = columns.get(place, 0.0) + own * weight
    bias = share * _bias(fine_tuned.head) + (1 - share) * _bias(head)
    made = replace(
        fine_tuned.head,
        name=f"{head.name}+{fine_tuned.plan.strategy.value}",
        feature_layers=tuple(columns),
        weight=np.concatenate([*columns.values()], axis=1).astype(np.float32),
        bias=bias.astype(np.float32),
        probabilities=decision.probabilities,
    )
    made = calibrated_by(made, option.calibration)
    words = training_data.labelled.target.words
    why = (
        f"on held-out examples an ensemble of {_network(str(fine_tuned.plan.strategy.value))} and "
        f"the linear probe ({100 * share:.0f} to {100 * (1 - share):.0f}) gives the best "
        f"{words.answers}"
    )
    if decision.ahead < LITTLE:
        why += f", if hardly {words.hardly}"
    return replace(
        fine_tuned,
        network=network,
        head=made,
        reader=CandidatePair(fine_tuned.reader, training_data.extracted.reader),
        shipped=ENSEMBLE,
        why=why,
    )


def _bias(head: HeadFit) -> Array:
    return head.calibration.scale * head.bias.astype(np.float64) + head.calibration.bias


def fine_tuning_gain(probe: Array, tuned: Array, labelled: LabelledRows, fold: Rows) -> Evidence:
    """What fine-tuning brought over the linear probe, on rows that neither had learnt from.

    Shapes: probe, tuned (n, K) out-of-fold answers by the same folds; fold (n,), -1 for rows that
    none held out.
    """
    held, target = fold >= 0, labelled.target
    truth, groups = labelled.labels[held], labelled.groups()[held]
    before, after = (target.credits(one[held], truth) for one in (probe, tuned))
    is_once = labelled.holdout or fold.max() < 1  # one fold: as a hold-out
    inflation = 1.0 if is_once else MODEL_VARIANCE
    gap = hits_difference(after, before, groups, inflation)
    loss = target.said_losses(probe[held], truth) - target.said_losses(tuned[held], truth)
    error = float(np.sqrt(inflation)) * standard_error(loss, groups)
    return Evidence(
        name="fine_tuning_gain",
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
