"""What is taken for what: a square of classes, darker where more images are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from warmstart.reporting import html
from warmstart.reporting.bars import Bar, lying
from warmstart.reporting.facts import Facts, Said
from warmstart.reporting.svg import escaped, fixed, label, short, tag

CELL = 30.0
SMALL_CELL, SMALL_NAMES = 9.0, 74.0  # units; the latter left of the square, and above it
_LETTERS, _LETTER = 14, 7.4
PALEST, DARKEST = 0.1, 0.48  # opacity: figures stay legible on it, in light and dark


@dataclass(frozen=True, slots=True)
class Table:
    """Counts by (true class, answer); `rows` and `columns` give the order and the names."""

    rows: Sequence[str]
    columns: Sequence[str]
    counts: Mapping[tuple[str, str], int]


def matrix(table: Table, *, name: str, title: str, about: str) -> str:
    """Cells with their counts; the shade is the share of a class's own images."""
    longest = max((len(name) for name in (*table.rows, *table.columns)), default=0)
    room = 10 + _LETTER * min(longest, _LETTERS)
    width = room + CELL * len(table.columns) + 4
    height = room + CELL * len(table.rows) + 4
    body = [_names(table, CELL, room, "")]
    for i, row in enumerate(table.rows):
        total = _total(table, row)
        for j, column in enumerate(table.columns):
            n = table.counts.get((row, column), 0)
            x, y = room + CELL * j, room + CELL * i
            body.append(_cell(x, y, CELL, row == column, n, total))
            if n:
                body.append(label(x + CELL / 2, y + CELL / 2 + 4, f"{n:,}", "small", "middle"))
    return fixed("".join(body), name=name, title=title, about=about, width=width, height=height)


def small_matrix(table: Table, *, name: str, title: str, about: str) -> str:
    """The same for many classes: no counts, no empty cells; what a cell means shows on it."""
    width = SMALL_NAMES + SMALL_CELL * len(table.columns) + 4
    height = SMALL_NAMES + SMALL_CELL * len(table.rows) + 4
    place = {column: j for j, column in enumerate(table.columns)}
    edge = SMALL_CELL * len(table.columns)
    body = [
        tag(
            "rect",
            x=SMALL_NAMES,
            y=SMALL_NAMES,
            width=edge,
            height=SMALL_CELL * len(table.rows),
            class_="ground",
        ),
        _names(table, SMALL_CELL, SMALL_NAMES, " tiny"),
    ]
    for i, row in enumerate(table.rows):
        total = _total(table, row)
        for (target, answer), n in table.counts.items():
            if target == row and answer in place:
                x, y = SMALL_NAMES + SMALL_CELL * place[answer], SMALL_NAMES + SMALL_CELL * i
                body.append(_cell(x, y, SMALL_CELL, row == answer, n, total))
    return fixed("".join(body), name=name, title=title, about=about, width=width, height=height)


def _total(table: Table, row: str) -> int:
    return max(sum(n for (target, _), n in table.counts.items() if target == row), 1)


def _names(table: Table, cell: float, room: float, class_: str) -> str:
    body = []
    for i, row in enumerate(table.rows):
        y = room + cell * (i + 0.5) + 3
        body.append(label(room - 5, y, short(row, _LETTERS), f"soft{class_}", "end"))
    for j, column in enumerate(table.columns):
        x = room + cell * (j + 0.5) + 3
        turned = tag(
            "text",
            escaped(short(column, _LETTERS)),
            class_=f"soft{class_}",
            transform=f"translate({x:.1f} {room - 5:.1f}) rotate(-90)",
        )
        body.append(turned)
    return "".join(body)


def _cell(x: float, y: float, side: float, is_right: bool, n: int, total: int) -> str:
    share = n / total
    opacity = f"{PALEST + (DARKEST - PALEST) * share:.2f}" if n else None
    class_ = ("hit" if is_right else "miss") if n else "ground"
    gap = 1.0 if side > 12 else 0.5
    return tag(
        "rect",
        x=x + gap / 2,
        y=y + gap / 2,
        width=side - gap,
        height=side - gap,
        class_=class_,
        fill_opacity=opacity,
    )


# ---- What is taken for what: a square of classes, the commonest mistakes, a map of many classes.


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
    for (target, answer), n in counts.items():
        if target in rows:
            found[(target, answer if answer in rows else OTHERS)] += n
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
