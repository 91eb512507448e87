"""One training of upper layers beside a head: what each choice says of the test images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from warmstart.data.split import blocks
from warmstart.events import drain
from warmstart.joints import check, heads, planned, problems, request
from warmstart.joints.look import take_look
from warmstart.joints.model import origin_of
from warmstart.joints.request import Request
from warmstart.joints.scene import Scene, set_scene
from warmstart.joints.score import head_probabilities
from warmstart.joints.ship import decided, tail_gain, tune_and_weigh
from warmstart.joints.starting import choose_start
from warmstart.joints.tune import NO_LIMIT, Worked
from warmstart.network.load import Start
from warmstart.recording import Clock
from warmstart.records import Inspection, Verdict
from warmstart.training.checkpoint import NoCheckpoints
from warmstart.training.head import HeadFit
from warmstart.training.ship import HEAD, SHARES, TUNED, Decision

LEAST = 1e-12


@dataclass(frozen=True)
class Trial:
    """What came out of one set. `worked` is that of the tuned layers, whatever would ship."""

    scene: Scene
    head: HeadFit
    worked: Worked
    decision: Decision | None  # None where the training was given up
    hits: np.ndarray  # (shares, n_test)

    @property
    def chosen(self) -> int:
        """Place in SHARES of what the rule ships."""
        return self.decision.kind if self.decision is not None else HEAD

    @property
    def deeper(self) -> int:
        """Of what ships, or would if the head were no choice."""
        return self.chosen if self.chosen != HEAD else TUNED

    @property
    def test_blocks(self) -> np.ndarray:
        """Which test images belong together. Shapes: (n_test,)."""
        arranged = self.scene.arranged
        return blocks(arranged.test, arranged.twins)


def set_up(asked: Request) -> tuple[Scene, Start]:
    """Read, look, settle: as far as `fit` goes before any evidence."""
    collection = drain(request.read_data(asked))
    asked, start = drain(choose_start(asked, collection, Clock()))
    look = drain(take_look(collection, start))
    collection = problems.settled(collection, look, None)
    return set_scene(collection, look, start.record, asked.budget, asked.seed), start


def try_tail(asked: Request, scene: Scene, start: Start) -> Trial:
    """Fit the head, train the layers that `fit` would, and answer the test images with both."""
    facts = planned.network_facts(asked, start, scene.look.network, None, is_tried=True)
    plan = planned.make_plan(
        planned.settle(asked), scene.arranged.facts(), facts, tuple(scene.profiles),
        scene.look.engine,
    )  # fmt: skip
    head = drain(heads.fit_all(scene, plan))
    digests = origin_of(start, scene.look.network).digests
    own = replace(plan, strategy=replace(plan.strategy, source="user"))  # nothing is chosen here
    steps = tune_and_weigh(scene, own, head, digests, NoCheckpoints(), NO_LIMIT)
    worked = drain(steps)
    arranged = scene.arranged
    said = [
        head_probabilities(head, scene.look.reader(arranged.test)),
        head_probabilities(worked.head, worked.reader(arranged.test)),
    ]
    logs = [np.log(np.maximum(p, LEAST)) for p in said]
    mixed = [share * logs[1] + (1 - share) * logs[0] for share in SHARES]
    hits = np.array([one.argmax(axis=1) == arranged.test_labels for one in mixed], dtype=float)
    before = worked.before
    decision = None if before is None else decided(scene, head, worked.head, before)
    return Trial(scene, head, worked, decision, hits)


def judged(trial: Trial, inspection: Inspection) -> Verdict:
    """The verdict of `fit`: with the measured gain, where it would have trained at all."""
    verdict = check.judge(inspection)
    if not check.tries_tail(trial.scene, verdict) or trial.decision is None:
        return verdict
    arranged, before = trial.scene.arranged, trial.worked.before
    held = before.fold >= 0 if before is not None else slice(None)
    gain = tail_gain(trial.decision, arranged.blocks()[held])
    return check.concluded(inspection, replace(trial.worked, gain=gain))[1]
