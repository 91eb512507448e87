"""The ship rule, where the depth is not the user's: head, tuned network, or both in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from warmstart.evaluation.measure import measure_of
from warmstart.events import Steps
from warmstart.joints.allowance import Allowance
from warmstart.joints.boosted import beside
from warmstart.joints.memory import freed_memory_kept
from warmstart.joints.notes import note
from warmstart.joints.output import by_tap
from warmstart.joints.rows import Arranged, Reader, ReadTap
from warmstart.joints.scene import Scene
from warmstart.joints.score import Measured, estimate, score_test
from warmstart.joints.tune import Worked, tune
from warmstart.network.beside import may_stand_beside, put_beside
from warmstart.planning.schedule import head_alone, schedule
from warmstart.planning.storing import frozen_prefix
from warmstart.planning.verdict import points
from warmstart.records import Evidence, Example, Plan, Tap
from warmstart.solve.kernels import Features
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.intervals import Values, standard_error
from warmstart.training.checkpoint import Checkpoints
from warmstart.training.head import HeadFit, calibrated_by
from warmstart.training.ship import HEAD, TUNED, Decision, decide

BLEND = "blend"
LITTLE = 0.005  # of accuracy: below it is the probabilities that made the choice


@dataclass(frozen=True, slots=True)
class Both:
    """A reader of the taps of tuned layers, and of the start's own beside them."""

    tuned: Reader
    start: Reader

    def __call__(self, examples: Sequence[Example]) -> ReadTap:
        """From examples to the reader of their taps, (n, d_t) each."""
        tuned, start = self.tuned(examples), self.start(examples)

        def read(tap: Tap) -> Features:
            return start(replace(tap, of="")) if tap.of else tuned(tap)

        return read


def tune_and_weigh(
    scene: Scene,
    plan: Plan,
    head: HeadFit,
    digests: Mapping[str, str],
    checkpoints: Checkpoints,
    allowance: Allowance,
) -> Steps[Worked]:
    """Train as the plan says, then choose what is shipped. Raises: as `tune` does."""
    with freed_memory_kept():
        worked = yield from tune(scene, plan, head, digests, checkpoints, allowance)
    weighed = yield from weigh(scene, plan, head, worked)
    return replace(weighed, beside=(yield from beside(scene, weighed)))


def measure(worked: Worked, arranged: Arranged, is_shipped: bool) -> Measured:
    """The estimate, and the test where there is one and something to test."""
    head, held = worked.head, worked.head.fold >= 0
    claimed = estimate(head, arranged)
    if worked.hits is not None:  # the rows held out had a say in what is shipped
        measure = measure_of(arranged.target)
        claimed = measure.estimate(worked.hits, arranged.blocks()[held], "bbc-cv")
    if not arranged.test or not is_shipped:
        return Measured(claimed, None, None)
    tested, probabilities = score_test(head, arranged, worked.reader(arranged.test))
    return Measured(claimed, tested, probabilities)


def weigh(scene: Scene, plan: Plan, head: HeadFit, worked: Worked) -> Steps[Worked]:
    """What is shipped, by rows that were held out; a depth that the user set ships as it is.

    `head` is the fitted one on the frozen network, fitted on all rows.
    """
    if plan.strategy.source == "user" or worked.actions is None or worked.before is None:
        return worked
    arranged, held = scene.arranged, worked.before.fold >= 0
    decision = decided(
        scene, head, worked.head, worked.before, is_paired=schedule(worked.plan).pairs
    )
    found = _carried_out(scene, head, worked, decision)
    found = replace(
        found, hits=_all_hits(found.head, arranged, held, decision.hits),
        gain=tail_gain(decision, arranged.blocks()[held]),
    )  # fmt: skip
    yield note("tune", "Compared", found.why)
    return found


def decided(
    scene: Scene, head: HeadFit, tuned: HeadFit, before: HeadFit, *, is_paired: bool = False
) -> Decision:
    """The rule's choice. `before` is the head alone, held out as the training held out."""
    arranged, rng = scene.arranged, np.random.default_rng([scene.seed, 10])
    return decide(
        before.probabilities, tuned.probabilities, arranged.labels, before.fold,
        arranged.blocks(), rng, alone=head.probabilities, target=arranged.target,
        is_paired=is_paired,
    )  # fmt: skip


def _carried_out(scene: Scene, head: HeadFit, worked: Worked, decision: Decision) -> Worked:
    kind = decision.kind
    if kind == HEAD:
        return _head(scene, head, worked, decision)
    if kind == TUNED or not _can_blend(scene, worked):
        words, gain = scene.arranged.target.words, points(decision.ahead)
        why = f"{words.than.format(gain)} than the new output alone on examples held out"
        if decision.ahead < LITTLE:
            why = f"on examples held out {words.tie}"
        return replace(worked, why=why)
    return _blended(scene, head, worked, decision)


def _head(scene: Scene, head: HeadFit, worked: Worked, decision: Decision) -> Worked:
    """The network as it came: training is reported, and nothing of it is kept."""
    why = (
        f"{worked.plan.strategy.value} was trained beside it and is no better on examples held "
        f"out ({points(decision.ahead)} points)"
    )
    return replace(
        worked, network=scene.look.network, head=head, reader=scene.look.reader,
        plan=head_alone(worked.plan, why), actions=None, step_zero=None, compared="",
        shipped="head", why=why,
    )  # fmt: skip


def _all_hits(
    shipped: HeadFit, arranged: Arranged, held: NDArray[np.bool_], corrected: Values
) -> Values:
    """Of every row that what ships was judged on: `corrected` (m,) where the choice was, too.

    Shapes: held (n,) with m rows that the training held out.
    """
    judged, hits = shipped.fold >= 0, np.zeros(len(held))
    hits[judged] = arranged.target.credits(shipped.probabilities[judged], arranged.labels[judged])
    hits[held] = corrected
    found: Values = hits[judged]
    return found


def _can_blend(scene: Scene, worked: Worked) -> bool:
    """Whether both can stand in one network; where they cannot, the tuned one ships."""
    return "added" not in (worked.actions or {}).values() and may_stand_beside(
        worked.network, frozen_prefix(worked.plan)
    )


def _blended(scene: Scene, head: HeadFit, worked: Worked, decision: Decision) -> Worked:
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
        worked.head, name=f"{head.name}+{worked.plan.strategy.value}", taps=tuple(columns),
        weight=np.concatenate([*columns.values()], axis=1).astype(np.float32),
        bias=bias.astype(np.float32), probabilities=option.probabilities,
    )  # fmt: skip
    made = calibrated_by(made, option.calibration)
    words = scene.arranged.target.words
    why = (
        f"on examples held out {worked.plan.strategy.value} and the new output together "
        f"({100 * share:.0f} to {100 * (1 - share):.0f}) give the best {words.answers}"
    )
    if decision.ahead < LITTLE:
        why += f", if hardly {words.hardly}"
    return replace(
        worked, network=network, head=made, reader=Both(worked.reader, scene.look.reader),
        shipped=BLEND, why=why,
    )  # fmt: skip


def _bias(head: HeadFit) -> Array:
    return head.calibration.temperature * head.bias.astype(np.float64) + head.calibration.bias


def tail_gain(decision: Decision, blocks: Rows) -> Evidence:
    """What training upper layers brings over the head alone, on rows that neither had seen."""
    gap = decision.deeper - decision.head
    value, error = float(gap.mean()), standard_error(gap, blocks)
    return Evidence(
        name="tail_gain", value=value, low=max(value - 1.96 * error, -1.0),
        high=min(value + 1.96 * error, 1.0), n=len(gap),
        meaning=(
            f"Trained in full beside the new output, upper layers bring {100 * value:+.1f} points "
            "on examples held out."
        ),
        details={"error": error, "log_loss_gain": decision.gain, "log_loss_error": decision.error},
    )  # fmt: skip
