"""Proof: how good it is, where it errs, and that the frozen weights are what they were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from warmstart.formatting import at_most, interval, percent, sentence
from warmstart.records.comparison import ClassScore
from warmstart.records.network import Ledger
from warmstart.records.summary import Scores
from warmstart.reporting import html
from warmstart.reporting.facts import HeldOutAnswer, ReportFacts
from warmstart.reporting.figures import Bar, BarPiece, diagram, interval_bar, lying, stacked
from warmstart.reporting.html import fixed, label, short, svg_escaped, tag
from warmstart.reporting.pictures import shots, worst
from warmstart.tasks.words import percent as percent_of

# ---- The square of a confusion matrix: darker where more images are.


CELL = 30.0
SMALL_CELL, SMALL_NAMES = 9.0, 74.0  # units; the latter left of the square, and above it
_LETTERS, _LETTER = 14, 7.4
PALEST, DARKEST = 0.1, 0.48  # opacity: figures stay legible on it, in light and dark


@dataclass(frozen=True, slots=True)
class ConfusionTable:
    """Counts by (true class, answer); `rows` and `columns` give the order and the names."""

    rows: Sequence[str]
    columns: Sequence[str]
    counts: Mapping[tuple[str, str], int]


def matrix(table: ConfusionTable, *, name: str, title: str, about: str) -> str:
    """Cells with their counts; the shade is the share of a class's own images."""
    longest = max((len(name) for name in (*table.rows, *table.columns)), default=0)
    space = 10 + _LETTER * min(longest, _LETTERS)
    width = space + CELL * len(table.columns) + 4
    height = space + CELL * len(table.rows) + 4
    body = [_names(table, CELL, space, "")]
    for i, row in enumerate(table.rows):
        total = _total(table, row)
        for j, column in enumerate(table.columns):
            n = table.counts.get((row, column), 0)
            x, y = space + CELL * j, space + CELL * i
            body.append(_cell(x, y, CELL, row == column, n, total))
            if n:
                body.append(label(x + CELL / 2, y + CELL / 2 + 4, f"{n:,}", "small", "middle"))
    return fixed("".join(body), name=name, title=title, about=about, width=width, height=height)


def small_matrix(table: ConfusionTable, *, name: str, title: str, about: str) -> str:
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


def _total(table: ConfusionTable, row: str) -> int:
    return max(sum(n for (target, _), n in table.counts.items() if target == row), 1)


def _names(table: ConfusionTable, cell: float, space: float, class_: str) -> str:
    body = []
    for i, row in enumerate(table.rows):
        y = space + cell * (i + 0.5) + 3
        body.append(label(space - 5, y, short(row, _LETTERS), f"soft{class_}", "end"))
    for j, column in enumerate(table.columns):
        x = space + cell * (j + 0.5) + 3
        turned = tag(
            "text",
            svg_escaped(short(column, _LETTERS)),
            class_=f"soft{class_}",
            transform=f"translate({x:.1f} {space - 5:.1f}) rotate(-90)",
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


def confusion(facts: ReportFacts) -> str:
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
    table = ConfusionTable(rows, columns, counts)
    right = sum(said.is_right for said in facts.held)
    about = f"{right:,} of {facts.nouns.count(len(facts.held))} are right; {_words_of(facts.held)}"
    picture = matrix(table, name="confusion", title=title, about=about)
    caption += "Blue is right, red is wrong; the darker, the larger the share of the row."
    return html.figure(title, picture, caption, wide=True)


def _order(held: Sequence[HeldOutAnswer]) -> tuple[str, ...]:
    return tuple(sorted({said.target for said in held} | {said.label for said in held}))


def _most_mistaken(held: Sequence[HeldOutAnswer]) -> list[str]:
    wrong = Counter(said.target for said in held if not said.is_right)
    return [name for name, _ in sorted(wrong.items(), key=lambda p: (-p[1], p[0]))][:PART]


def _folded(counts: Counter[tuple[str, str]], rows: Sequence[str]) -> Counter[tuple[str, str]]:
    """The counts of some rows, answers that are none of them taken together."""
    found: Counter[tuple[str, str]] = Counter()
    for (target, answer), n in counts.items():
        if target in rows:
            found[(target, answer if answer in rows else OTHERS)] += n
    return found


def mixed_up(held: Sequence[HeldOutAnswer]) -> list[tuple[tuple[str, str], int]]:
    """Pairs (class, what it was taken for) with how often, the commonest first."""
    pairs = Counter((said.target, said.label) for said in held if not said.is_right)
    return sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))


def _words_of(held: Sequence[HeldOutAnswer]) -> str:
    pairs = mixed_up(held)[:3]
    if not pairs:
        return "none is taken for another class."
    return "; ".join(f"{a} taken for {b} {n} times" for (a, b), n in pairs) + "."


def commonest(facts: ReportFacts) -> str:
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


def small_map(facts: ReportFacts) -> str:
    """All classes at once, where they are too many for a table of figures."""
    names = _order(facts.held)
    if not WHOLE < len(names) <= MAPPED:
        return ""
    table = ConfusionTable(names, names, Counter((said.target, said.label) for said in facts.held))
    title = f"All {len(names)} classes at once"
    picture = small_matrix(table, name="map", title=title, about=_words_of(facts.held))
    caption = "Rows are classes, columns answers, both in the order of the alphabet."
    return html.fold(title, html.figure(title, picture, caption, wide=True))


FATES = {
    "frozen": ("frozen", "frozen"),
    "kept": ("frozen", "kept"),
    "copied": ("frozen", "copied"),
    "trained": ("tuned", "trained"),
    "merged": ("tuned", "merged"),
    "reshaped": ("tuned", "reshaped"),
    "new": ("new", "new"),
}
NOT_LAYERS = ("head", "added", "unused")  # parts that are new in every model, or new by name
TRAINED = ("trained", "merged")  # fates of weights that steps of a training have moved


def proof_section(facts: ReportFacts) -> str:
    """Numbers, confusion, classes, worst mistakes, certainty, weights, forgetting."""
    if not facts.ships:
        return ""
    return html.section(
        "proof",
        "Proof: how good it is, and how far to trust it",
        _numbers(facts),
        html.side_by_side(confusion(facts), commonest(facts)),
        small_map(facts),
        _classes(facts),
        _worst(facts),
        _certainty(facts),
        ledger_figure(facts),
        _forgetting(facts),
    )


def _numbers(facts: ReportFacts) -> str:
    estimate, test = facts.summary.estimate, facts.summary.test
    rows = []
    if estimate is not None:
        shown = interval(estimate.value, estimate.low, estimate.high, estimate.n)
        rows.append((shown, f"right, on {facts.nouns.count(estimate.n)} it had not seen"))
    if isinstance(test, Scores):
        shown = interval(test.accuracy, test.low, test.high, test.n)
        rows.append((shown, f"right, on your {facts.nouns.count(test.n, 'test')}, looked at once"))
        rows.append((percent_of(test.balanced_accuracy, 1), "balanced accuracy (test)"))
        rows.append((f"{test.macro_f1:.3f}", "macro F1 (test)"))
        rows.append((f"{test.log_loss:.3f}", "log-loss (test)"))
    if not rows:
        return ""
    text = (
        "What follows is about examples to learn from, each judged by a model that had not seen it"
    )
    if test is not None:
        text += "; the test set is kept for its own figures, so that nothing is tuned to it"
    return html.figures(rows) + html.paragraph(f"{text}.", "note")


# ---- classes, mistakes, certainty --------------------------------------------------------


def _classes(facts: ReportFacts) -> str:
    """One row a class: how many are found, with the interval, and how far its name holds."""
    if not facts.classes:
        return ""
    tested = {score.label: score for score in facts.tested}
    overall = sum(said.is_right for said in facts.held) / max(len(facts.held), 1)
    head = [
        "class",
        facts.nouns.many,
        "found (95 % interval)",
        "0 to 100 %",
        "right when it says so",
        "most often taken for",
    ]
    rows = [_class(score, overall) for score in sorted(facts.classes, key=_weakness)]
    if tested:
        head.append("found in the test set")
        rows = [
            [*row, _tested(tested.get(score.label))]
            for row, score in zip(rows, sorted(facts.classes, key=_weakness), strict=True)
        ]
    shown = rows if len(rows) <= WHOLE else rows[:PART]
    title = "Class by class, the weakest first"
    more = f"The other {len(rows) - len(shown):,} classes"
    return (
        html.heading(title)
        + html.table(title, head, shown)
        + html.fold(more, html.table(more, head, rows[len(shown) :]))
    )


def _weakness(score: ClassScore) -> tuple[float, int, str]:
    return score.recall, score.n, score.label


def _class(score: ClassScore, overall: float) -> list[str]:
    precision = "never said" if score.precision is None else percent(score.precision, score.answers)
    taken = "–" if score.taken_for is None else f"{score.taken_for} ({score.taken:,})"
    return [
        html.escaped(score.label),
        f"{score.n:,}",
        html.escaped(interval(score.recall, score.low, score.high, score.n)),
        interval_bar(score.recall, score.low, score.high, overall),
        html.escaped(precision),
        html.escaped(taken),
    ]


def _tested(score: ClassScore | None) -> str:
    if score is None:
        return "–"
    return html.escaped(f"{interval(score.recall, score.low, score.high, score.n)}, of {score.n:,}")


def _worst(facts: ReportFacts) -> str:
    found = worst(facts)
    if not found:
        return html.paragraph("It made no mistake on examples held out.") if facts.held else ""
    n = facts.summary.data.train
    shown = [
        (said.id, f"{said.target}, taken for {said.label} ({percent(said.probability, n)} sure)")
        for said in found
    ]
    return html.heading("Its worst mistakes, the surest first") + shots(facts, shown)


def _certainty(facts: ReportFacts) -> str:
    found = facts.certainty
    if found is None:
        return ""
    title = "Is it right as often as it is sure?"
    picture = diagram(found.bins, name="certainty", title=title, about=found.sentence)
    caption = (
        f"{found.sentence} On the dashed line it would be right exactly as often as it says; each "
        "dot stands for as many answers, its bar is the 95 % interval."
    )
    return html.side_by_side(html.figure(title, picture, caption), _promise(facts))


def _promise(facts: ReportFacts) -> str:
    """What “sure” and “unlike anything” mean in its answers."""
    calibration, held = facts.calibration, facts.held
    if calibration is None or not held:
        return ""
    title = html.heading("What “confident” means here")
    if calibration.confident_from is None:
        return (
            f"<div>{title}"
            + html.paragraph(
                "Nothing is called confident: there are too few examples to promise anything."
            )
            + "</div>"
        )
    sure = [said for said in held if said.probability >= calibration.confident_from]
    wrong = sum(not said.is_right for said in sure)
    text = (
        f"An answer is called confident from {percent(calibration.confident_from, len(held))} on. Of "
        f"{facts.nouns.count(len(held))} held out {len(sure):,} were confident, and {wrong:,} of "
        f"those wrong. Promised, with 95 % certainty: at most "
        f"{at_most(calibration.promised_error)} % of the confident ones are."
    )
    return f"<div>{title}{html.paragraph(text)}</div>"


# ---- weights -----------------------------------------------------------------------------


def ledger_figure(facts: ReportFacts) -> str:
    """What became of every tensor of the start, and what is new."""
    if facts.ledger is None:
        return ""
    title = "What became of the weights"
    picture = stacked(
        _fates(facts.ledger), name="ledger", title=title, about="; ".join(facts.fates)
    )
    frozen = facts.summary.frozen
    proof = ""
    if frozen.parameters or frozen.buffers:
        said = "are" if frozen.identical else "are NOT"
        proof = (
            f"{frozen.parameters:,} weights and {frozen.buffers:,} statistics were frozen, and "
            f"{said} the same as in the base model, bit for bit (SHA-256 of each in "
            "weights_ledger.json)."
        )
    used = dict.fromkeys(FATES[row.fate][0] for row in facts.ledger.rows if row.fate in FATES)
    names = {"frozen": "as in the base model", "tuned": "trained", "new": "new"}
    return (
        f"<figure>{html.heading(title)}{picture}"
        f"{html.legend((class_, names[class_]) for class_ in used)}</figure>"
        + html.items(map(html.escaped, facts.fates), "plain")
        + html.paragraph(proof)
    )


def _fates(ledger: Ledger) -> list[BarPiece]:
    sizes: Counter[str] = Counter()
    for row in ledger.rows:
        if row.fate in FATES:
            sizes[row.fate] += row.numel
    total = max(sizes.total(), 1)
    return [
        BarPiece(f"{FATES[fate][1]}: {sizes[fate]:,} numbers", sizes[fate] / total, FATES[fate][0])
        for fate in FATES
        if sizes[fate]
    ]


def _forgetting(facts: ReportFacts) -> str:
    """Whether fine-tuning undid what the base model knew, where what ships was fine-tuned."""
    seen = [note for note in facts.summary.guards if note.kind == "forgetting"]
    told = [
        str(event.values.get("text", ""))
        for event in facts.events
        if seen and event.kind == "guard" and event.values.get("guard") == "forgetting"
    ]
    if told or seen:
        words = told or [note.action for note in seen]
        return html.heading("Forgetting") + "".join(html.paragraph(sentence(w)) for w in words)
    if facts.ledger is None:
        return ""
    fates = {row.fate for row in facts.ledger.rows}
    has_new = any(row.fate == "new" and row.block not in NOT_LAYERS for row in facts.ledger.rows)
    if has_new and fates <= {"new", "dropped"}:
        return html.heading("Forgetting") + html.paragraph(
            "The layers were trained from scratch: nothing of a base model was there to forget."
        )
    if fates.isdisjoint(TRAINED) and "reshaped" in fates:
        return html.heading("Forgetting") + html.paragraph(
            f"No layer was trained. The input was fitted to {facts.nouns.many} of another kind "
            "than the base model's, so what it says of its own kind was not measured."
        )
    if not fates.isdisjoint(TRAINED):
        return html.heading("Forgetting") + html.paragraph(
            f"The fine-tuned layers still tell these {facts.nouns.many} apart as the base model's "
            "did; nothing that it knew was seen to go. On other kinds of "
            f"{facts.nouns.many} this was not measured."
        )
    if has_new:
        return html.heading("Forgetting") + html.paragraph(
            "The layers that came from the base model were not changed; the others were made new."
        )
    return html.heading("Forgetting") + html.paragraph(
        "None is possible: no layer of the base model was changed."
    )
