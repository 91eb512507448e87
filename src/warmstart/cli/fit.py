"""A plan on one screen: what is frozen, what is trained, at which rate, why, and how long."""

from __future__ import annotations

import shlex

from warmstart.cli.output import (
    check_processes,
    dumps,
    fit_along,
    print_run,
    settle_imports,
    watcher,
)
from warmstart.cli.parse import Call
from warmstart.cli.parse import request_of
from warmstart.cli.stop import stoppable
from warmstart.distributed import joined
from warmstart.events import Event, follow
from warmstart.formatting import duration, printable, sentence, size
from warmstart.nouns import Nouns, nouns_of
from warmstart.planning.forecast import given_up
from warmstart.planning.words import BlockRange, runs
from warmstart.records.plan import Choice, DryRun, Forecast, Plan
from warmstart.terminal.text import WIDTH, column

STAGES = {
    "features": "the look",
    "check": "the checks",
    "head": "the output",
    "fine_tune": "training",
}
NAME_WIDTH = 24
ACTIONS = {
    "frozen": "frozen",
    "tuned": "tuned",
    "low-rank": "low-rank",
    "fresh": "new",
    "added": "added",
}


def plan_text(found: DryRun, data: str) -> str:
    """The plan and its forecast, and what to type next; `data` as it was typed."""
    plan, nouns = found.plan, nouns_of(found.kind)
    learnt = f"{nouns.count(found.n)} to learn from, {len(found.classes)} classes"
    groups = [
        column("Data", learnt + (f", {found.n_test:,} to test on" if found.n_test else "")),
        column("Start", f"{found.title}: {plan.base.because}"),
        _layers(found),
        column("Because", _because(plan)),
        *([column("Rate", _rate(plan.training.lr))] if plan.training.lr else []),
        *_trained(plan, nouns),
        *([column("Surgery", sentence(found.surgery))] if found.surgery else []),
        column("Takes", _takes(found.forecast)),
        _next(found, printable(shlex.quote(data))),
    ]
    return "\n".join(groups)


def _layers(found: DryRun) -> str:
    """One row a run of layers: numbers, action, rate, weights, names."""
    rows = []
    for run in runs(found.plan):
        weights = sum(found.parameters.get(name, 0) for name in run.names)
        rows.append((run.layers, ACTIONS[run.action], _rates(run), f"{weights:,}", _names(run)))
    output = found.plan.blocks[-1]
    rate = f"{output.lr.number:g}" if output.lr else "exact"
    rows.append(("output", "new", rate, "", f"for {len(found.classes)} classes"))
    head = ("Layers", "", "rate", "weights", "")
    wide = [max(len(row[i]) for row in (*rows, head)) for i in range(4)]
    lines = []
    for first, *rest in (head, *rows):
        lead = f"{first:<9}" if first == "Layers" else f"         {first:<{wide[0]}}  "
        if first == "Layers":
            lead = f"{'Layers':<9}{'':<{wide[0]}}  "
        cells = f"{rest[0]:<{wide[1]}}  {rest[1]:<{wide[2]}}  {rest[2]:>{wide[3]}}  {rest[3]}"
        line = printable((lead + cells).rstrip())
        lines.append(line if len(line) <= WIDTH else line[: WIDTH - 1] + "…")
    return "\n".join(lines)


def _rates(run: BlockRange) -> str:
    return run.rates.removeprefix("at ") or "–"


def _names(run: BlockRange) -> str:
    first, last = run.names[0], run.names[-1]
    text = first if first == last else f"{first} … {last}"
    return text if len(text) <= NAME_WIDTH else text[: NAME_WIDTH - 1] + "…"


def _because(plan: Plan) -> str:
    chosen = plan.strategy
    if chosen.source != "user":
        return sentence(f"{chosen.because} ({chosen.value})")
    text = f"you chose {chosen.value}"
    if chosen.rule not in (None, chosen.value):
        text += f"; the rule would have said {chosen.rule}"
    return sentence(text)


def _rate(rate: Choice) -> str:
    text = f"{rate.number:g}: {rate.because}"
    if rate.source == "user" and rate.rule is not None:
        text += f" (the rule would have said {float(str(rate.rule)):g})"
    return sentence(text)


def _trained(plan: Plan, nouns: Nouns) -> list[str]:
    """What is passed, and what was given up of it; a strategy given up is told as the reason."""
    if not plan.is_trained:
        return []
    found, cut = [column("Training", _training(plan, nouns))], given_up(plan, nouns)
    return [*found, column("Minutes", sentence(cut))] if cut else found


def _training(plan: Plan, nouns: Nouns) -> str:
    training = plan.training
    texts = []
    if training.epochs and training.folds:
        n = int(training.folds.number)
        texts.append(f"{training.epochs.number:.3g} epochs, batches of {training.batch_size.value}")
        is_own = "hold-out" in training.folds.because
        held = (
            "your hold-out gives the estimate"
            if is_own
            else f"one {nouns.one} in five held out for the estimate"
        )
        if n > 1:
            held = f"{n} parts held out in turn for the estimate"
        times = int(training.model_soup.number) if training.model_soup else 1
        end = "once on all" if times < 2 else f"{times} times on all, whose weights are averaged"
        texts.append(f"{held}, then {end}")
    if "gradual" in str(plan.strategy.value):
        texts.append("layers join from the output downwards as long as it helps")
    return sentence("; ".join(texts))


def _takes(found: Forecast) -> str:
    shown = {
        STAGES[k]: v for k, v in found.seconds.items() if k in STAGES and v >= 0.05 * found.total
    }
    parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in shown.items())
    memory, disk = size(int(found.memory_mb * 1e6)), size(int(found.disk_mb * 1e6))
    about = f"about {duration(found.total)}" + (f" ({parts})" if parts else "")
    return sentence(f"{about}, {memory} of memory, {disk} on disk")


def _next(found: DryRun, data: str) -> str:
    if found.plan_file:
        file = shlex.quote(found.plan_file)
        rows = [(f"warmstart fit {data} --plan {file}", "after editing it, or as it is")]
    elif found.plan.is_trained:
        rows = [
            ("the same command without --dry-run", "do it"),
            ("--dry-run --out plan.toml", "write every choice into a file to edit"),
        ]
    else:
        rows = [
            (f"warmstart fit {data}", "do it"),
            (f"warmstart fit {data} --strategy last:4 --dry-run", "tune layers too"),
        ]
    left = max(len(command) for command, _ in rows) + 2
    lines = [f"{'Next' if i == 0 else '':<9}{c:<{left}}# {w}" for i, (c, w) in enumerate(rows)]
    kept = [line if len(line) <= WIDTH else line.split("  # ")[0].rstrip() for line in lines]
    if found.follows_verdict:
        kept.append(column("", "auto: the checks made in the run may ask for deeper tuning."))
    return "\n".join(kept)


def fit(call: Call) -> int:
    """`warmstart fit`: progress on stderr, the result on stdout; 3 without a signal.

    Of several processes the first alone shows, prints and writes; what a launcher would take for
    a failure, that there is no signal, is 0 then.
    """
    if "--dry-run" in call.switches:
        return dry_run(call)
    with joined() as world:
        check_processes(call, world)
        if not world.is_first:
            return fit_along(call)
        code = _fit(call)
    return code if world.size == 1 else 0


def _fit(call: Call) -> int:
    with watcher(call) as watch:
        # The libraries take seconds to load: say first that work has begun.
        watch.show(Event(stage="read", kind="begin"))
        from warmstart.run.fit import fit as steps

        settle_imports()
        with stoppable(watch.show) as see:
            finished = follow(steps(request_of(call)), see)
    return print_run(call, finished, (call.values.get("--test"), call.places[0]))


def dry_run(call: Call) -> int:
    """`warmstart fit --dry-run`: the plan and its forecast on stdout."""
    with watcher(call) as watch:
        watch.show(Event(stage="read", kind="begin"))
        from warmstart.run.dry_run import dry_run as steps

        settle_imports()
        found = follow(steps(request_of(call)), watch.show)
    if "--json" in call.switches:
        print(dumps(found, indent=2))
    else:
        print(plan_text(found, call.places[0]))
    return 0
