"""`warmstart fit`, and its plan on one screen: what is frozen or fine-tuned, why, and how long."""

from __future__ import annotations

import shlex

from warmstart.cli.options import (
    ARCH,
    BASE,
    BUDGET,
    COMMON,
    DATA,
    DEVICE,
    MINUTES,
    READING,
    SEED,
    SET,
    TEST,
    Call,
    Option,
    Verb,
    positive,
    request_of,
)
from warmstart.cli.output import (
    check_processes,
    print_result,
    print_run,
    settle_imports,
    watched,
    work_along,
)
from warmstart.cli.stop import stoppable
from warmstart.distributed import join_group
from warmstart.events import follow
from warmstart.formatting import duration, printable, sentence, size
from warmstart.modalities.registry import MODALITIES
from warmstart.nouns import Nouns
from warmstart.records.plan import Choice, DryRun, Forecast, Plan
from warmstart.terminal.text import column, command_rows, lead, shortened, table_lines

STAGES = {
    "features": "features",
    "checks": "checks",
    "head": "linear probe",
    "fine_tune": "fine-tuning",
}
NAME_WIDTH = 24


def plan_text(dry_run: DryRun, data: str) -> str:
    """The plan, its forecast, and the next command; `data` as it was typed."""
    plan, nouns = dry_run.plan, MODALITIES[dry_run.kind].nouns
    sizes = f"{nouns.count(dry_run.n, 'training')}, {len(dry_run.classes)} classes"
    sizes += f", {nouns.count(dry_run.n_test, 'test')}" if dry_run.n_test else ""
    from warmstart.planning.forecast import given_up

    lines = [
        column("Data", sizes),
        column("Base", f"{dry_run.title}: {plan.base.because}"),
        *_layers(dry_run),
        column("Because", _reason(plan.strategy)),
    ]
    if lr := plan.training.lr:
        is_own = lr.source == "user" and lr.rule is not None
        rule = f" (the rule would choose {float(str(lr.rule)):g})" if is_own else ""
        lines.append(column("LR", sentence(f"{lr.number:g}: {lr.because}{rule}")))
    if plan.is_trained:
        lines.append(column("Training", _training(plan, nouns)))
        if cut := given_up(plan, nouns):
            lines.append(column("Minutes", sentence(cut)))
    if dry_run.surgery:
        lines.append(column("Surgery", sentence(dry_run.surgery)))
    lines.append(column("Cost", _cost(dry_run.forecast)))
    return "\n".join([*lines, *_next(dry_run, printable(shlex.quote(data)))])


def _layers(dry_run: DryRun) -> list[str]:
    """One row per range of blocks: numbers, action, learning rate, weights, names."""
    from warmstart.planning.plan_file import runs

    rows = [("", "", "lr", "weights", "")]
    for run in runs(dry_run.plan):
        weights = sum(dry_run.parameters.get(name, 0) for name in run.names)
        names = run.names[0] if len(run.names) == 1 else f"{run.names[0]} … {run.names[-1]}"
        lr = run.rates.removeprefix("at ") or "–"
        rows.append(
            (run.layers, run.behaviour.short, lr, f"{weights:,}", shortened(names, NAME_WIDTH))
        )
    head = dry_run.plan.blocks[-1].lr
    lr = f"{head.number:g}" if head else "exact"
    rows.append(("head", "new", lr, "", f"for {len(dry_run.classes)} classes"))
    titles = [lead("Blocks"), *[lead("")] * len(rows)]
    return [
        shortened(printable(title + line))
        for title, line in zip(titles, table_lines(rows, right={3}), strict=False)
    ]


def _reason(strategy: Choice) -> str:
    if strategy.source != "user":
        return sentence(f"{strategy.because} ({strategy.value})")
    is_rule = strategy.rule in (None, strategy.value)
    rule = "" if is_rule else f"; the rule would choose {strategy.rule}"
    return f"You chose {strategy.value}{rule}."


def _training(plan: Plan, nouns: Nouns) -> str:
    """Epochs, batches, folds and the trainings on all examples."""
    training, texts = plan.training, []
    if training.epochs and training.folds:
        n = int(training.folds.number)
        texts.append(f"{training.epochs.number:.3g} epochs, batches of {training.batch_size.value}")
        folds = f"one {nouns.one} in five held out for the estimate"
        if n > 1:
            folds = f"{n}-fold cross-validation for the estimate"
        elif "hold-out" in training.folds.because:
            folds = "your hold-out gives the estimate"
        times = int(training.model_soup.number) if training.model_soup else 1
        end = "once on all" if times < 2 else f"{times} times on all, averaged to a model soup"
        texts.append(f"{folds}, then {end}")
    if "gradual" in str(plan.strategy.value):
        texts.append("blocks are unfrozen from the head downwards as long as it helps")
    return sentence("; ".join(texts))


def _cost(forecast: Forecast) -> str:
    seconds = {STAGES[k]: v for k, v in forecast.seconds.items() if k in STAGES}
    stages = ", ".join(
        f"{k} {duration(v)}" for k, v in seconds.items() if v >= 0.05 * forecast.total
    )
    memory, disk = size(int(forecast.memory_mb * 1e6)), size(int(forecast.disk_mb * 1e6))
    about = f"about {duration(forecast.total)}" + (f" ({stages})" if stages else "")
    return sentence(f"{about}, {memory} of memory, {disk} on disk")


def _next(dry_run: DryRun, data: str) -> list[str]:
    if dry_run.plan_file:
        file = shlex.quote(dry_run.plan_file)
        rows = [(f"warmstart fit {data} --plan {file}", "edited or unchanged")]
    elif dry_run.plan.is_trained:
        rows = [
            ("the same command without --dry-run", "do it"),
            ("--dry-run --out plan.toml", "write every choice into a file to edit"),
        ]
    else:
        rows = [
            (f"warmstart fit {data}", "do it"),
            (f"warmstart fit {data} --strategy last:4 --dry-run", "fine-tune blocks too"),
        ]
    lines = command_rows(rows)
    if dry_run.follows_verdict:
        lines.append(column("", "auto: the checks of the run may decide to fine-tune more."))
    return lines


def fit(call: Call) -> int:
    """Run `warmstart fit`: progress on stderr, the result on stdout; 3 without a signal.

    Of several processes only the first shows, prints and writes; a run without a signal then
    returns 0, because a launcher would take 3 for a failure.
    """
    if "--dry-run" in call.switches:
        return _dry_run(call)
    with join_group() as world:
        check_processes(call, world)
        if not world.is_first:
            from warmstart.run.resume import fit_along

            return work_along(fit_along(request_of(call)))
        with watched(call) as show:
            from warmstart.run.fit import fit as steps

            settle_imports()
            with stoppable(show) as see:
                finished = follow(steps(request_of(call)), see)
        code = print_run(call, finished, (call.values.get("--test"), call.places[0]))
    return code if world.size == 1 else 0


def _dry_run(call: Call) -> int:
    with watched(call) as show:
        from warmstart.run.forecast import dry_run as steps

        settle_imports()
        plan = follow(steps(request_of(call)), show)
    print_result(call, plan, lambda: plan_text(plan, call.places[0]))
    return 0


VERB = Verb(
    words="fit DATA",
    needs=(DATA,),
    short="fine-tune on labelled images, write a run folder",
    about="""Fine-tunes a base model on DATA: a folder with one sub-folder per class
    (photos/cat/1.jpg), a table of paths and classes, or a zip or tar of either. Writes a run
    folder with the model, its accuracy and the reason for every decision.""",
    options=(
        BASE,
        ARCH,
        Option(
            "--strategy S",
            "auto (default) decides by measurement; head, last:N, frozen:K, full or scratch, "
            "then +add, +lora or +gradual",
        ),
        BUDGET,
        Option(
            "--lr X",
            "learning rate of the uppermost block (default: by rule)",
            rule=positive("0.0003"),
        ),
        MINUTES,
        DEVICE,
        Option(
            "--parallel P", "processes share data (default); fsdp: weights too; pipeline:N: blocks"
        ),
        Option("--plan FILE", "follow a plan.toml; other options override it"),
        SET,
        Option(
            "--dry-run",
            "show the plan with time, memory and disk, and stop; --out FILE.toml writes it",
        ),
        TEST,
        *READING,
        Option("--track NAME,...", "log curves to tensorboard, wandb, mlflow ..."),
        Option("--out RUN", "run folder to create (default runs/<name of DATA>)"),
        SEED,
        *COMMON,
    ),
    examples=(
        "warmstart fit photos/  # photos/<class>/*.jpg",
        "warmstart fit labels.csv --label species --test later.csv",
        "warmstart fit photos/ --strategy last:4 --dry-run  # see the plan first",
    ),
    run=fit,
    is_shared=True,
    settles=True,
)
