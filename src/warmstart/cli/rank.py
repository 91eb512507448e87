"""The table of `rank`: how right each start is, what it costs, which to take and why."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from warmstart.cli.output import dumps, watcher
from warmstart.cli.parse import Call
from warmstart.cli.parse import names_in
from warmstart.events import Event, follow
from warmstart.formatting import duration, interval, percent, percents, printable
from warmstart.nouns import nouns_of
from warmstart.records.comparison import RankedModel, Ranking
from warmstart.records.data import Task
from warmstart.tasks.words import TASK_WORDS
from warmstart.terminal.text import WIDTH, column

if TYPE_CHECKING:
    from warmstart.data.labels import TaskOption


HEADER = ("base", "accuracy", "seconds", "size", "")
HEADS: dict[Task, str] = {"classify": "accuracy", "multilabel": "mAP", "regress": "R²"}
GAP = "  "


def ranking_text(ranking: Ranking, words: Sequence[str]) -> str:
    """A ranking as a table, the start to take, and the command that does it.

    `words` follow `warmstart fit` in that command: the data, and the options that read it.
    """
    best = {base.name for base in _best(ranking)}
    head = (HEADER[0], HEADS[ranking.task or "classify"], *HEADER[2:])
    rows = [head, *(_row(base, best, ranking) for base in ranking.models)]
    notes = [_meaning(ranking)]
    notes += [column("Ties", "\n".join(f"{_names(tie)}." for tie in _other_ties(ranking)))]
    notes += [column("Failed", f"{each.name}: {each.error}") for each in ranking.failed]
    if ranking.left_out:
        notes.append(column("Left out", f"{', '.join(ranking.left_out)}; name them in --models."))
    table = "\n".join(_aligned(rows))
    told = "\n".join(note for note in notes if note.split()[1:])
    return "\n\n".join([table, told, _advice(ranking, words)])


def _row(base: RankedModel, best: set[str], ranking: Ranking) -> tuple[str, ...]:
    return (
        printable(base.name),
        interval(base.value, base.low, base.high, ranking.n),
        "kept" if base.cached else duration(base.seconds),
        f"{base.parameters / 1e6:.1f} M",
        _mark(base, best, ranking),
    )


def _mark(base: RankedModel, best: set[str], ranking: Ranking) -> str:
    if base is ranking.models[0]:
        return "best" if len(ranking.models) > 1 else ""
    if base.name in best:
        return "ties with the best"
    bounds = (-base.difference, -base.difference_high, -base.difference_low)
    middle, low, high = percents(*bounds, n=ranking.n)
    return f"worse by {middle} ({low} to {high})"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows in columns; the first one gives way where a name is long, and keeps its end."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    space = WIDTH - sum(widths[1:]) - len(GAP) * (len(HEADER) - 1)
    widths[0] = min(widths[0], space)
    lines = []
    for name, *rest in rows:
        shown = name if len(name) <= space else "…" + name[len(name) - space + 1 :]
        cells = (f"{cell:<{width}}" for cell, width in zip((shown, *rest), widths, strict=True))
        lines.append(GAP.join(cells).rstrip())
    return lines


def _meaning(ranking: Ranking) -> str:
    where = f"{nouns_of(ranking.kind).many} held out in turn"
    where = "the part you held out" if ranking.method == "holdout" else where
    words = TASK_WORDS[ranking.task or "classify"]
    name = f"{words.name[0].upper()}{words.name[1:]}"
    text = f"{name} on {where} ({ranking.n:,}), with its 95 % interval;"
    text += f" {words.idle.format(percent(ranking.majority, ranking.n))}."
    if any(base.cached for base in ranking.models):
        text += "\nkept: seen in an earlier look, so there was nothing to time."
    return column("Meaning", text)


def _best(ranking: Ranking) -> list[RankedModel]:
    """The best start and those that tie with it."""
    first = ranking.models[0].name
    group = next((tie for tie in ranking.ties if tie[0] == first), (first,))
    return [base for base in ranking.models if base.name in group]


def _other_ties(ranking: Ranking) -> list[tuple[str, ...]]:
    return [tie for tie in ranking.ties if tie[0] != ranking.models[0].name]


def _names(tie: Sequence[str]) -> str:
    return f"{', '.join(tie[:-1])} and {tie[-1]} tie with each other"


def _advice(ranking: Ranking, words: Sequence[str]) -> str:
    take = next(base for base in ranking.models if base.name == ranking.choice)
    text = f"{take.name}: {ranking.because}."
    if take.low <= ranking.majority:
        blind = TASK_WORDS[ranking.task or "classify"].naming
        text += f"\nNone of them is measurably better than {blind}."
    options = ["--base", take.name]
    if take.arch:
        options = ["--base", take.name.removesuffix(f"@{take.arch}"), "--arch", take.arch]
    command = shlex.join(["warmstart", "fit", *words, *options])
    return f"{column('Take', text)}\nNext     {printable(command)}"


def rank(call: Call) -> int:
    """`warmstart rank`: which start suits the data, progress on stderr."""
    values = call.values
    with watcher(call) as watch:
        watch.show(Event(stage="read", kind="begin"))
        from warmstart.run.base_model import rank_base_models as steps

        ranking = follow(
            steps(
                call.places[0],
                names_in(values.get("--models", "")),
                label=values.get("--label"),
                group=values.get("--group"),
                task=cast("TaskOption", values.get("--task", "auto")),
                seed=int(values.get("--seed", "0")),
                strict="--strict" in call.switches,
            ),
            watch.show,
        )
    if "--json" in call.switches:
        print(dumps(ranking, indent=2))
    else:
        same = [word for pair in values.items() if pair[0] != "--models" for word in pair]
        print(ranking_text(ranking, [call.places[0], *same]))
    return 0
