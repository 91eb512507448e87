"""`warmstart rank`: the accuracy and the cost of each base model, which to take, and why."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from warmstart.cli.options import (
    COMMON,
    DATA,
    GROUP,
    LABEL,
    READ_ALL,
    SEED,
    TASK,
    Call,
    Option,
    Verb,
    names_in,
)
from warmstart.cli.output import print_result, watched
from warmstart.events import follow
from warmstart.formatting import duration, joined, percent, percents, printable, short_interval
from warmstart.modalities.registry import MODALITIES
from warmstart.records.comparison import RankedModel, Ranking
from warmstart.records.inputs import DEFAULT_KIND
from warmstart.tasks.registry import task_or_default
from warmstart.terminal.text import column, lead, table_lines

OTHER = "timm:resnet18"  # another base model of images


def ranking_text(ranking: Ranking, words: Sequence[str]) -> str:
    """The table and the base model to take; `words` follow `warmstart fit` in its command."""
    first = ranking.models[0].name
    best = next((tie for tie in ranking.ties if tie[0] == first), (first,))
    rows = [("base", task_or_default(ranking.task).words.short, "seconds", "size", "")]
    for base in ranking.models:
        score = short_interval(base.value, base.low, base.high, ranking.n)
        seconds = "cached" if base.cached else duration(base.seconds)
        size = f"{base.parameters / 1e6:.1f} M"
        rows.append((printable(base.name), score, seconds, size, _rank(base, best, ranking)))
    groups = [table_lines(rows), _notes(ranking), _advice(ranking, words)]
    return "\n\n".join("\n".join(group) for group in groups)


def _rank(base: RankedModel, best: Sequence[str], ranking: Ranking) -> str:
    if base is ranking.models[0]:
        return "best" if len(ranking.models) > 1 else ""
    if base.name in best:
        return "ties with the best"
    bounds = (-base.difference, -base.difference_high, -base.difference_low)
    middle, low, high = percents(*bounds, n=ranking.n)
    return f"worse by {middle} ({low} to {high})"


def _notes(ranking: Ranking) -> Iterator[str]:
    words = task_or_default(ranking.task).words
    where = f"{MODALITIES[ranking.kind].nouns.many}, cross-validated"
    where = "your hold-out" if ranking.method == "holdout" else where
    text = (
        f"{words.name[0].upper()}{words.name[1:]} of a linear probe on {where} ({ranking.n:,}), "
        f"with its 95 % interval; {words.idle.format(percent(ranking.majority, ranking.n))}."
    )
    if any(base.cached for base in ranking.models):
        text += "\ncached: the features were extracted earlier, so there was nothing to time."
    yield column("Meaning", text)
    ties = [tie for tie in ranking.ties if tie[0] != ranking.models[0].name]
    if ties:
        yield column("Ties", "\n".join(f"{joined(tie)} tie with each other." for tie in ties))
    for model in ranking.failed:
        yield column("Failed", f"{model.name}: {model.error}")
    if ranking.left_out:
        yield column("Left out", f"{', '.join(ranking.left_out)}; name them in --models.")


def _advice(ranking: Ranking, words: Sequence[str]) -> list[str]:
    base = next(model for model in ranking.models if model.name == ranking.choice)
    text = f"{base.name}: {ranking.because}."
    if base.low <= ranking.majority:
        baseline = task_or_default(ranking.task).words.blind
        text += f"\nNone of them is measurably better than {baseline}."
    if len(ranking.models) + len(ranking.failed) == 1:
        other = f", such as {OTHER}" if ranking.kind == DEFAULT_KIND else ""
        text += (
            f"\nTo compare it, name others in --models{other}; `warmstart models` lists those on "
            "this computer."
        )
    options = ["--base", base.name]
    if base.arch:
        options = ["--base", base.name.removesuffix(f"@{base.arch}"), "--arch", base.arch]
    command = shlex.join(["warmstart", "fit", *words, *options])
    return [column("Take", text), lead("Next") + printable(command)]


def rank(call: Call) -> int:
    """Run `warmstart rank`: progress on stderr, the ranking on stdout."""
    values = call.values
    with watched(call) as show:
        from warmstart.run.base_model import rank_base_models as steps

        job = steps(
            call.places[0],
            names_in(values.get("--models", "")),
            label=values.get("--label"),
            group=values.get("--group"),
            task=values.get("--task", "auto"),
            seed=int(values.get("--seed", "0")),
            strict="--strict" in call.switches,
        )
        ranking = follow(job, show)
    options = [word for pair in values.items() if pair[0] != "--models" for word in pair]
    print_result(call, ranking, lambda: ranking_text(ranking, [call.places[0], *options]))
    return 0


VERB = Verb(
    words="rank DATA",
    needs=(DATA,),
    short="rank base models on your labelled images",
    about="""Extracts the features of DATA once with each base model and measures the held-out
    accuracy of a linear probe on them. Models whose difference could be chance are called ties.
    Nothing is fine-tuned or written; a later fit reuses the features.""",
    options=(
        Option(
            "--models A,B,...",
            "base models as --base of fit takes them; a file of weights with its architecture "
            "as FILE@timm:NAME (default: those on this computer, at most 6)",
        ),
        LABEL,
        TASK,
        GROUP,
        READ_ALL,
        SEED,
        *COMMON,
    ),
    examples=(
        "warmstart rank photos/ --models lite0,lite1,timm:resnet18",
        "warmstart rank photos/ --models lite0,my.safetensors@timm:resnet18",
    ),
    run=rank,
)
