"""Proof: how accurate the model is, where it errs, and that frozen weights did not change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from warmstart.formatting import at_most, interval, percent, sentence, short_interval
from warmstart.records.comparison import ClassScore
from warmstart.records.network import Ledger
from warmstart.records.summary import Scores
from warmstart.reporting import html
from warmstart.reporting.facts import HeldOutAnswer, ReportFacts
from warmstart.reporting.figures import Bar, BarPiece, diagram, interval_bar, lying, stacked
from warmstart.reporting.html import fixed, label, rect, short, svg_escaped, tag
from warmstart.tasks.words import percent as percent_of

# ---- The confusion matrix as a picture: darker where more images are.


CELL = 30.0
SMALL_CELL, SMALL_NAMES = 9.0, 74.0  # units; the latter left of the matrix, and above it
_LETTERS, _LETTER = 14, 7.4
PALEST, DARKEST = 0.1, 0.48  # opacity: numbers stay legible on it, in light and dark


@dataclass(frozen=True, slots=True)
class ConfusionTable:
    """Counts by (target, answer); `rows` and `columns` give the order and the names."""

    rows: Sequence[str]
    columns: Sequence[str]
    counts: Mapping[tuple[str, str], int]

    def totals(self) -> Counter[str]:
        """The number of images by class."""
        totals: Counter[str] = Counter()
        for (target, _), n in self.counts.items():
            totals[target] += n
        return totals


def matrix(table: ConfusionTable, *, name: str, title: str, about: str) -> str:
    """Cells with their counts; the shade is the share of a class's images."""
    longest = max((len(name) for name in (*table.rows, *table.columns)), default=0)
    space = 10 + _LETTER * min(longest, _LETTERS)
    body, totals = [], table.totals()
    for i, row in enumerate(table.rows):
        for j, column in enumerate(table.columns):
            n, x, y = table.counts.get((row, column), 0), space + CELL * j, space + CELL * i
            body.append(_cell(x, y, CELL, row == column, n / max(totals[row], 1)))
            if n:
                body.append(label(x + CELL / 2, y + CELL / 2 + 4, f"{n:,}", "small", "middle"))
    return _framed(table, body, CELL, space, "", name=name, title=title, about=about)


def small_matrix(table: ConfusionTable, *, name: str, title: str, about: str) -> str:
    """A matrix of many classes: no counts, no empty cells."""
    space, cell, totals = SMALL_NAMES, SMALL_CELL, table.totals()
    body = [rect(space, space, cell * len(table.columns), cell * len(table.rows), "ground")]
    rows, columns = ({name: k for k, name in enumerate(x)} for x in (table.rows, table.columns))
    for (target, answer), n in table.counts.items():
        if target in rows and answer in columns:
            x, y = space + cell * columns[answer], space + cell * rows[target]
            body.append(_cell(x, y, cell, target == answer, n / totals[target]))
    return _framed(table, body, cell, space, " tiny", name=name, title=title, about=about)


def _framed(
    table: ConfusionTable, body: list[str], cell: float, space: float, class_: str, **texts: str
) -> str:
    """The cells with the names of classes and answers."""
    for i, row in enumerate(table.rows):
        y = space + cell * (i + 0.5) + 3
        body.append(label(space - 5, y, short(row, _LETTERS), f"soft{class_}", "end"))
    for j, column in enumerate(table.columns):
        turn = f"translate({space + cell * (j + 0.5) + 3:.1f} {space - 5:.1f}) rotate(-90)"
        text = svg_escaped(short(column, _LETTERS))
        body.append(tag("text", text, class_=f"soft{class_}", transform=turn))
    width, height = space + cell * len(table.columns) + 4, space + cell * len(table.rows) + 4
    return fixed("".join(body), width=width, height=height, **texts)


def _cell(x: float, y: float, side: float, is_right: bool, share: float) -> str:
    opacity = f"{PALEST + (DARKEST - PALEST) * share:.2f}" if share else None
    class_ = ("hit" if is_right else "miss") if share else "ground"
    gap = 1.0 if side > 12 else 0.5
    size = side - gap
    return rect(x + gap / 2, y + gap / 2, size, size, class_, fill_opacity=opacity)


# ---- Confusion: matrix, commonest mistakes, a map of many classes.


WORST = 12  # mistakes that are shown
WHOLE = 16  # classes up to which the matrix shows all of them
MOST_CLASSES = 12  # of more classes, those with the most mistakes
MOST_PAIRS, NAME = 10, 15  # pairs of classes that are named, with so many letters
MAPPED = 250  # classes up to which the small map is drawn
OTHERS = "all others"


def confusion(facts: ReportFacts) -> str:
    """The confusion matrix; of many classes, those with the most mistakes."""
    held_out = facts.held_out
    counts = Counter((one.target, one.label) for one in held_out)
    if not counts:
        return ""
    rows = columns = _order(held_out)
    title = "Confusion matrix"
    if len(rows) > WHOLE:
        mistakes = Counter(one.target for one in held_out if not one.is_right)
        ranked = sorted(mistakes.items(), key=lambda pair: (-pair[1], pair[0]))
        rows = tuple(sorted(name for name, _ in ranked[:MOST_CLASSES]))
        columns, counts = (*rows, OTHERS), _merged(counts, rows)
        title = f"Confusion matrix of the {len(rows)} classes with the most mistakes"
    table = ConfusionTable(rows, columns, counts)
    right = sum(one.is_right for one in held_out)
    about = f"{right:,} of {facts.nouns.count(len(held_out))} are right; {_commonest(held_out)}"
    picture = matrix(table, name="confusion", title=title, about=about)
    caption = (
        "A row is a class, a column an answer. Blue is right, red is wrong; the darker, the larger "
        "the share of the row."
    )
    return html.figure(title, picture, caption, wide=True)


def _order(held_out: Sequence[HeldOutAnswer]) -> tuple[str, ...]:
    return tuple(sorted({one.target for one in held_out} | {one.label for one in held_out}))


def _merged(counts: Counter[tuple[str, str]], rows: Sequence[str]) -> Counter[tuple[str, str]]:
    merged: Counter[tuple[str, str]] = Counter()
    for (target, answer), n in counts.items():
        if target in rows:
            merged[(target, answer if answer in rows else OTHERS)] += n
    return merged


def mistaken_pairs(held_out: Sequence[HeldOutAnswer]) -> list[tuple[tuple[str, str], int]]:
    """Pairs (class, answer) of mistakes with their counts, the commonest first."""
    pairs = Counter((one.target, one.label) for one in held_out if not one.is_right)
    return sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))


def _commonest(held_out: Sequence[HeldOutAnswer]) -> str:
    pairs = (f"{a} taken for {b} {n} times" for (a, b), n in mistaken_pairs(held_out)[:3])
    return f"{'; '.join(pairs) or 'none is taken for another class'}."


def commonest(facts: ReportFacts) -> str:
    """The commonest mistakes as bars; empty where there are none."""
    pairs = mistaken_pairs(facts.held_out)
    if not pairs:
        return ""
    most = pairs[0][1]
    bars = [
        Bar(f"{short(a, NAME)} → {short(b, NAME)}", n / most, f"{n:,}", "bar bad")
        for (a, b), n in pairs[:MOST_PAIRS]
    ]
    title = "The commonest mistakes"
    picture = lying(bars, name="mixed", title=title, about=_commonest(facts.held_out))
    more = len(pairs) - MOST_PAIRS
    rarer = f" {more:,} more pairs are rarer." if more > 0 else ""
    return html.figure(title, picture, f"True class → answer.{rarer}")


def small_map(facts: ReportFacts) -> str:
    """All classes at once, where they are too many for a matrix with numbers."""
    names = _order(facts.held_out)
    if not WHOLE < len(names) <= MAPPED:
        return ""
    counts = Counter((one.target, one.label) for one in facts.held_out)
    title, about = f"All {len(names)} classes at once", _commonest(facts.held_out)
    table = ConfusionTable(names, names, counts)
    picture = small_matrix(table, name="map", title=title, about=about)
    caption = "Rows are classes, columns answers, both in alphabetical order."
    return html.fold(title, html.figure(title, picture, caption, wide=True))


def proof_section(facts: ReportFacts) -> str:
    """Scores, confusion, classes, worst mistakes, calibration, weights, forgetting."""
    if not facts.ships:
        return ""
    return html.section(
        "proof",
        "Proof: how accurate it is, and how far to trust it",
        _scores(facts),
        html.side_by_side(confusion(facts), commonest(facts)),
        small_map(facts),
        _classes(facts),
        _worst(facts),
        _calibration(facts),
        ledger_figure(facts),
        _forgetting(facts),
    )


def _scores(facts: ReportFacts) -> str:
    estimate, test = facts.summary.estimate, facts.summary.test
    rows = []
    if estimate is not None:
        score = interval(estimate.value, estimate.low, estimate.high, estimate.n)
        rows.append((score, f"accuracy on {facts.nouns.count(estimate.n)}, held out"))
    if isinstance(test, Scores):
        score = interval(test.accuracy, test.low, test.high, test.n)
        rows += [
            (score, f"accuracy on {facts.nouns.count(test.n, 'test')}"),
            (percent_of(test.balanced_accuracy, 1), "balanced accuracy (test)"),
            (f"{test.macro_f1:.3f}", "macro F1 (test)"),
            (f"{test.log_loss:.3f}", "log-loss (test)"),
        ]
    if not rows:
        return ""
    text = (
        "The rest of this section is about training examples, each predicted by a model that was "
        "not trained on it"
    )
    if test is not None:
        text += "; the test set serves only for its own scores, so that nothing is tuned to it"
    return html.figures(rows) + html.paragraph(f"{text}.", "note")


def _classes(facts: ReportFacts) -> str:
    if not facts.classes:
        return ""
    held_out = facts.held_out
    overall = sum(one.is_right for one in held_out) / max(len(held_out), 1)
    test_scores = {score.label: score for score in facts.test_classes}
    head = [
        "class",
        facts.nouns.many,
        "recall (95 % CI)",
        "0 to 100 %",
        "precision",
        "most often taken for",
        *(["recall in the test set"] if test_scores else []),
    ]
    rows = []
    for score in sorted(facts.classes, key=lambda score: (score.recall, score.n, score.label)):
        row = _class(score, overall)
        if test_scores:
            test, cell = test_scores.get(score.label), "–"
            if test is not None:
                recall = short_interval(test.recall, test.low, test.high, test.n)
                cell = html.escaped(f"{recall}, of {test.n:,}")
            row.append(cell)
        rows.append(row)
    n = len(rows) if len(rows) <= WHOLE else MOST_CLASSES
    title, more = "Class by class, the weakest first", f"The other {len(rows) - n:,} classes"
    return (
        html.heading(title)
        + html.table(title, head, rows[:n])
        + html.fold(more, html.table(more, head, rows[n:]))
    )


def _class(score: ClassScore, overall: float) -> list[str]:
    precision = "never predicted"
    if score.precision is not None:
        precision = percent(score.precision, score.answers)
    other = score.confused_with
    confused_with = "–" if other is None else f"{other} ({score.n_confused:,})"
    return [
        html.escaped(score.label),
        f"{score.n:,}",
        html.escaped(short_interval(score.recall, score.low, score.high, score.n)),
        interval_bar(score.recall, score.low, score.high, overall),
        html.escaped(precision),
        html.escaped(confused_with),
    ]


def worst(facts: ReportFacts) -> tuple[HeldOutAnswer, ...]:
    """The most confident mistakes among held-out examples."""
    wrong = [one for one in facts.held_out if not one.is_right]
    return tuple(sorted(wrong, key=lambda one: (-one.probability, one.id))[:WORST])


def _worst(facts: ReportFacts) -> str:
    mistakes, n = worst(facts), facts.summary.data.train
    if not mistakes:
        text = "It made no mistake on held-out examples."
        return html.paragraph(text) if facts.held_out else ""
    examples = [
        (one.id, f"{one.target}, taken for {one.label} with {percent(one.probability, n)}")
        for one in mistakes
    ]
    return html.heading("The worst mistakes, the most confident first") + html.shots(
        facts, examples
    )


def _calibration(facts: ReportFacts) -> str:
    confidence = facts.confidence
    if confidence is None:
        return ""
    title = "Calibration: is it right as often as it is confident?"
    picture = diagram(confidence.bins, name="certainty", title=title, about=confidence.sentence)
    caption = (
        f"{confidence.sentence} On the dashed line accuracy equals confidence; each dot stands for "
        "as many answers, its bar is the 95 % interval."
    )
    return html.side_by_side(html.figure(title, picture, caption), _confident(facts))


def _confident(facts: ReportFacts) -> str:
    calibration, held_out = facts.calibration, facts.held_out
    if calibration is None or not held_out:
        return ""
    text = "No answer is called confident: there are too few examples to guarantee anything."
    threshold = calibration.confident_from
    if threshold is not None:
        confident = [one for one in held_out if one.probability >= threshold]
        wrong = sum(not one.is_right for one in confident)
        text = (
            f"An answer is confident from {percent(threshold, len(held_out))} on. Of "
            f"{facts.nouns.count(len(held_out))} held out, {len(confident):,} were confident, and "
            f"{wrong:,} of those wrong. Guaranteed with 95 % certainty: at most "
            f"{at_most(calibration.promised_error)} % of the confident ones are."
        )
    return f"<div>{html.heading('What “confident” means here')}{html.paragraph(text)}</div>"


# ---- Weights.


# Class and word of each fate in the picture.
FATES = {
    "frozen": ("frozen", "frozen"),
    "kept": ("frozen", "kept"),
    "copied": ("frozen", "copied"),
    "trained": ("tuned", "trained"),
    "merged": ("tuned", "merged"),
    "reshaped": ("tuned", "reshaped"),
    "new": ("new", "new"),
}
NOT_LAYERS = ("head", "added", "unused")  # blocks that are new in every model, or new by name
TRAINED = ("trained", "merged")  # fates of weights that training has changed


def ledger_figure(facts: ReportFacts) -> str:
    """What became of every tensor of the base model, and what is new."""
    if facts.ledger is None:
        return ""
    title, about = "What became of the weights", "; ".join(facts.fates)
    sizes: Counter[str] = Counter()
    for row in facts.ledger.rows:
        sizes[row.fate] += row.numel if row.fate in FATES else 0
    total = max(sizes.total(), 1)
    pieces = [
        BarPiece(f"{word}: {sizes[fate]:,} numbers", sizes[fate] / total, class_)
        for fate, (class_, word) in FATES.items()
        if sizes[fate]
    ]
    picture = stacked(pieces, name="ledger", title=title, about=about)
    frozen, proof = facts.summary.frozen, ""
    if frozen.parameters or frozen.buffers:
        verb = "are" if frozen.identical else "are NOT"
        proof = (
            f"{frozen.parameters:,} weights and {frozen.buffers:,} statistics were frozen, and "
            f"{verb} the same as in the base model, bit for bit (SHA-256 of each in "
            "weights_ledger.json)."
        )
    classes = dict.fromkeys(FATES[row.fate][0] for row in facts.ledger.rows if row.fate in FATES)
    names = {"frozen": "as in the base model", "tuned": "trained", "new": "new"}
    legend = html.legend((class_, names[class_]) for class_ in classes)
    fates = html.items(map(html.escaped, facts.fates), "plain")
    return f"<figure>{html.heading(title)}{picture}{legend}</figure>{fates}{html.paragraph(proof)}"


def _forgetting(facts: ReportFacts) -> str:
    """Whether fine-tuning undid what the base model knew, where what ships was fine-tuned."""
    notes = [note for note in facts.summary.guards if note.kind == "forgetting"]
    texts = [
        str(event.values.get("text", ""))
        for event in facts.events
        if notes and event.kind == "guard" and event.values.get("guard") == "forgetting"
    ]
    texts = [sentence(text) for text in texts or [note.action for note in notes]]
    if not texts and facts.ledger is None:
        return ""
    body = "".join(map(html.paragraph, texts or [_forgetting_text(facts, facts.ledger)]))
    return html.heading("Forgetting") + body


def _forgetting_text(facts: ReportFacts, ledger: Ledger | None) -> str:
    many, rows = facts.nouns.many, ledger.rows if ledger is not None else ()
    fates = {row.fate for row in rows}
    has_new = any(row.fate == "new" and row.block not in NOT_LAYERS for row in rows)
    if has_new and fates <= {"new", "dropped"}:
        return "The layers were trained from scratch: there was no base model to forget."
    if fates.isdisjoint(TRAINED) and "reshaped" in fates:
        return (
            f"No layer was trained. The input was adapted to {many} of another kind than the base "
            "model's; its accuracy on its own kind was not measured."
        )
    if not fates.isdisjoint(TRAINED):
        return (
            f"The fine-tuned layers still tell these {many} apart as well as the base model's did: "
            f"no forgetting was seen. On other kinds of {many} this was not measured."
        )
    if has_new:
        return "The layers of the base model were not changed; the others are new."
    return "None is possible: no layer of the base model was changed."
