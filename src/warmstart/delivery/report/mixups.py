"""What is taken for what: a square of classes, the commonest mistakes, a map of many classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from warmstart.delivery.figures.bars import Bar, lying
from warmstart.delivery.figures.matrix import Table, matrix, small_matrix
from warmstart.delivery.figures.svg import short
from warmstart.delivery.report import html
from warmstart.delivery.report.facts import Facts, Said

WHOLE = 16  # classes up to which the matrix shows all of them
PART = 12  # of more classes, those with the most mistakes
MIXED, NAME = 10, 15  # pairs of classes that are named, with so many letters
MAPPED = 250  # classes up to which the small map is drawn
OTHERS = "all others"


def confusion(facts: Facts) -> str:
    """What is taken for what; of many classes those that are mixed up most."""
    counts = Counter((said.target, said.label) for said in facts.held)
    if not counts:
        return ""
    rows = _order(facts.held)
    columns: Sequence[str] = rows
    title, caption = "What is taken for what", "A row is a class, a column an answer. "
    if len(rows) > WHOLE:
        rows = tuple(sorted(_most_mistaken(facts.held)))
        columns, counts = (*rows, OTHERS), _folded(counts, rows)
        title = f"What is taken for what: the {len(rows)} classes with the most mistakes"
    table = Table(rows, columns, counts)
    right = sum(said.is_right for said in facts.held)
    about = f"{right:,} of {facts.nouns.count(len(facts.held))} are right; {_words_of(facts.held)}"
    picture = matrix(table, name="confusion", title=title, about=about)
    caption += "Blue is right, red is wrong; the darker, the larger the share of the row."
    return html.figure(title, picture, caption, wide=True)


def _order(held: Sequence[Said]) -> tuple[str, ...]:
    return tuple(sorted({said.target for said in held} | {said.label for said in held}))


def _most_mistaken(held: Sequence[Said]) -> list[str]:
    wrong = Counter(said.target for said in held if not said.is_right)
    return [name for name, _ in sorted(wrong.items(), key=lambda p: (-p[1], p[0]))][:PART]


def _folded(counts: Counter[tuple[str, str]], rows: Sequence[str]) -> Counter[tuple[str, str]]:
    """The counts of some rows, answers that are none of them taken together."""
    found: Counter[tuple[str, str]] = Counter()
    for (target, label), n in counts.items():
        if target in rows:
            found[(target, label if label in rows else OTHERS)] += n
    return found


def mixed_up(held: Sequence[Said]) -> list[tuple[tuple[str, str], int]]:
    """Pairs (class, what it was taken for) with how often, the commonest first."""
    pairs = Counter((said.target, said.label) for said in held if not said.is_right)
    return sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))


def _words_of(held: Sequence[Said]) -> str:
    pairs = mixed_up(held)[:3]
    if not pairs:
        return "none is taken for another class."
    return "; ".join(f"{a} taken for {b} {n} times" for (a, b), n in pairs) + "."


def commonest(facts: Facts) -> str:
    """The pairs of classes that are mixed up most, as bars; nothing where none is."""
    pairs = mixed_up(facts.held)
    if not pairs:
        return ""
    most = pairs[0][1]
    bars = [
        Bar(f"{short(a, NAME)} → {short(b, NAME)}", n / most, f"{n:,}", "bar bad")
        for (a, b), n in pairs[:MIXED]
    ]
    title = "The commonest mistakes"
    picture = lying(bars, name="mixed", title=title, about=_words_of(facts.held))
    more = len(pairs) - MIXED
    caption = f"True class → answer. {more:,} more pairs are rarer." if more > 0 else ""
    return html.figure(title, picture, caption or "True class → answer.")


def small_map(facts: Facts) -> str:
    """All classes at once, where they are too many for a table of figures."""
    names = _order(facts.held)
    if not WHOLE < len(names) <= MAPPED:
        return ""
    table = Table(names, names, Counter((said.target, said.label) for said in facts.held))
    title = f"All {len(names)} classes at once"
    picture = small_matrix(table, name="map", title=title, about=_words_of(facts.held))
    caption = "Rows are classes, columns answers, both in the order of the alphabet."
    return html.fold(title, html.figure(title, picture, caption, wide=True))
