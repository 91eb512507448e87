"""--minutes: the plan cut down to the time there is, and the moment at which training ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from warmstart.events import Steps, note
from warmstart.features.extraction import Look
from warmstart.planning.cached_activations import with_store
from warmstart.planning.facts import DataFacts, NetworkFacts
from warmstart.planning.minutes import Allowance, hurries, within
from warmstart.records.network import NetworkRecord
from warmstart.records.plan import Forecast, Plan
from warmstart.records.recording import Clock
from warmstart.request import Request
from warmstart.run import plan as run_plan
from warmstart.run.forecast import Bench, outlook, passing, tail_share
from warmstart.training.dataset import Scene

DELIVERY = 3.0  # seconds for what comes after training, beside passing images


def hurried(asked: Request, look: Look, n: int) -> Steps[Request]:
    """The request with `--budget fast`, where the minutes are too few for a close look.

    A budget that was typed stays.
    """
    found = quicker(asked, look.network.record, n)
    if found is not asked:
        yield note("check", "Hurry", "few minutes: --budget fast, without what the start knows")
    return found


def quicker(asked: Request, network: NetworkRecord, n: int) -> Request:
    """The same without a word; the request itself where there is time."""
    minutes, is_ours = asked.minutes, "budget" not in asked.typed and asked.budget != "fast"
    if minutes is None or not is_ours or not hurries(minutes, network, n):
        return asked
    return replace(asked, budget="fast", given=asked.typed)


def make_plan(
    asked: Request, scene: Scene, facts: NetworkFacts, names: Sequence[str], clock: Clock
) -> Plan:
    """The plan, cut down where the user has set minutes. Raises: PlanError as planning does."""
    plan = run_plan.make_plan(asked, scene.arranged.facts(), facts, names, scene.look.engine)
    if asked.minutes is None or not plan.is_trained:
        return plan
    elapsed = asked.elapsed + clock.table()["total"]
    foreseen = outlook(_bench(scene), plan, 0, False, elapsed)
    return cut(plan, asked.minutes, foreseen, facts, scene.arranged.facts())


def cut(
    plan: Plan,
    minutes: float,
    foreseen: Callable[[Plan], Forecast],
    facts: NetworkFacts,
    data: DataFacts,
) -> Plan:
    """The plan cut down to fit the minutes. `foreseen`: what following a plan takes."""

    def settled(other: Plan) -> Plan:
        return with_store(other, facts, data)  # fewer images passed need fewer views

    return settled(within(plan, 60 * minutes, lambda other: foreseen(settled(other)).total))


def allow(asked: Request, scene: Scene, plan: Plan, clock: Clock) -> Allowance:
    """The time for training: what is left, without what comes after it."""
    if asked.minutes is None or not plan.is_trained:
        return Allowance()
    arranged, bench = scene.arranged, _bench(scene)
    images = len(arranged.test) + tail_share(bench.network, plan) * len(arranged.learn)
    after = DELIVERY + passing(bench) * images
    left = 60 * asked.minutes - asked.elapsed - clock.table()["total"] - after
    return Allowance(time.perf_counter() + left)


def _bench(scene: Scene) -> Bench:
    look = scene.look
    return Bench(look.network, look.taps, scene.collection, scene.arranged, scene.prep)
