"""Proof: how accurate the model is, where it errs, and that frozen weights did not change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from warmstart.formatting import at_most, percent, sentence
from warmstart.records.summary import ClassScore, LabelScore, Scores
from warmstart.reporting import html
from warmstart.reporting.facts import HeldOutAnswer, ReportFacts
from warmstart.reporting.figures import (
    Bar,
    Counts,
    diagram,
    interval_bar,
    lying,
    matrix,
    scatter,
    stacked,
)
from warmstart.reporting.html import short
from warmstart.tasks.registry import other_metrics, test_estimate
from warmstart.tasks.words import percent as percent_of

WORST = 12  # mistakes that are shown
WHOLE = 16  # classes up to which the matrix shows all of them
MOST_CLASSES = 12  # of more classes, those with the most mistakes
MOST_PAIRS, NAME = 10, 15  # pairs of classes that are named, with so many letters
MAPPED = 250  # classes up to which the small map is drawn
OTHERS = "all others"


def _confusion(facts: ReportFacts) -> str:
    """Matrix and mistakes; of many classes those with the most mistakes, and a small map."""
    held_out = facts.held_out
    counts = Counter((one.target, one.label) for one in held_out)
    if not counts:
        return ""
    names = rows = columns = tuple(sorted({name for pair in counts for name in pair}))
    pairs = [(pair, n) for pair, n in counts.items() if pair[0] != pair[1]]
    pairs.sort(key=lambda pair: (-pair[1], pair[0]))
    texts = (f"{a} taken for {b} {n} times" for (a, b), n in pairs[:3])
    mistakes = f"{'; '.join(texts) or 'none is taken for another class'}."
    title, cells = "Confusion matrix", counts
    if len(names) > WHOLE:
        wrong = Counter(one.target for one in held_out if not one.is_right)
        ranked = sorted(wrong.items(), key=lambda pair: (-pair[1], pair[0]))
        rows = tuple(sorted(name for name, _ in ranked[:MOST_CLASSES]))
        columns, cells = (*rows, OTHERS), Counter()
        for (target, answer), n in counts.items():
            if target in rows:
                cells[target, answer if answer in rows else OTHERS] += n
        title = f"Confusion matrix of the {len(rows)} classes with the most mistakes"
    right = sum(one.is_right for one in held_out)
    about = f"{right:,} of {facts.nouns.count(len(held_out))} are right; {mistakes}"
    picture = matrix(cells, rows, columns, name="confusion", title=title, about=about)
    caption = (
        "A row is a class, a column an answer. Blue is right, red is wrong; the darker, the larger "
        "the share of the row."
    )
    figures = html.figure(title, picture, caption, wide=True), _commonest(pairs, mistakes)
    return html.side_by_side(*figures) + _small_map(counts, names, mistakes)


def _commonest(pairs: Sequence[tuple[tuple[str, str], int]], about: str) -> str:
    if not pairs:
        return ""
    most = pairs[0][1]
    bars = [
        Bar(f"{short(a, NAME)} → {short(b, NAME)}", n / most, f"{n:,}", "bar bad")
        for (a, b), n in pairs[:MOST_PAIRS]
    ]
    title = "The commonest mistakes"
    picture = lying(bars, name="mixed", title=title, about=about)
    more = len(pairs) - MOST_PAIRS
    rarer = f" {more:,} more pairs are rarer." if more > 0 else ""
    return html.figure(title, picture, f"True class → answer.{rarer}")


def _small_map(counts: Counts, names: Sequence[str], about: str) -> str:
    """All classes at once, where they are too many for a matrix with numbers."""
    if not WHOLE < len(names) <= MAPPED:
        return ""
    title = f"All {len(names)} classes at once"
    picture = matrix(counts, names, names, is_small=True, name="map", title=title, about=about)
    caption = "Rows are classes, columns answers, both in alphabetical order."
    return html.fold(title, html.figure(title, picture, caption, wide=True))


def proof_section(facts: ReportFacts) -> str:
    if not facts.target.has_classes:
        return html.section("proof", "Proof: what became of the weights", _ledger(facts))
    if not facts.ships:
        return ""
    return html.section(
        "proof",
        "Proof: how accurate it is, and how far to trust it",
        _scores(facts),
        _confusion(facts),
        _classes(facts),
        _worst(facts),
        _calibration(facts),
        _ledger(facts),
        _forgetting(facts),
    )


def _scores(facts: ReportFacts) -> str:
    estimate, test = facts.summary.estimate, facts.summary.test
    rows = []
    if estimate is not None:
        text = f"accuracy on {facts.nouns.count(estimate.n)}, held out"
        rows.append((estimate.interval, text))
    if isinstance(test, Scores):
        rows += [
            (test_estimate(test).interval, f"accuracy on {facts.nouns.count(test.n, 'test')}"),
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
    overall = sum(one.is_right for one in facts.held_out) / max(len(facts.held_out), 1)
    test_scores = {score.label: score for score in facts.test_classes}
    head = ["class", facts.nouns.many, "recall (95 % CI)", "0 to 100 %", "precision"]
    head += ["most often taken for", *(["recall in the test set"] if test_scores else [])]
    rows = []
    for score in sorted(facts.classes, key=lambda score: (score.recall, score.n, score.label)):
        row = _class(score, overall)
        if test_scores:
            test, cell = test_scores.get(score.label), "–"
            if test is not None:
                cell = f"{test.short_interval}, of {test.n:,}"
            row.append(cell)
        rows.append(row)
    n = len(rows) if len(rows) <= WHOLE else MOST_CLASSES
    title, more = "Class by class, the weakest first", f"The other {len(rows) - n:,} classes"
    others = html.fold(more, html.table(more, head, rows[n:]))
    return html.heading(title) + html.table(title, head, rows[:n]) + others


def _class(score: ClassScore, overall: float) -> list[str]:
    precision, confused_with = "never predicted", "–"
    if score.precision is not None:
        precision = percent(score.precision, score.answers)
    if score.confused_with is not None:
        confused_with = f"{score.confused_with} ({score.n_confused:,})"
    return [
        score.label,
        f"{score.n:,}",
        score.short_interval,
        html.Markup(interval_bar(score.recall, score.low, score.high, overall)),
        precision,
        confused_with,
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
    title = "The worst mistakes, the most confident first"
    return html.heading(title) + html.shots(facts, examples)


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


# The class of each fate in the picture.
FATES = {
    "frozen": "frozen",
    "unchanged": "frozen",
    "copied": "frozen",
    "trained": "tuned",
    "merged": "tuned",
    "reshaped": "tuned",
    "new": "new",
}
NOT_LAYERS = ("head", "added", "unused")  # blocks that are new in every model, or new by name
TRAINED = ("trained", "merged")  # fates of weights that training has changed


def _ledger(facts: ReportFacts) -> str:
    """What became of every tensor of the base model, and what is new."""
    if facts.ledger is None:
        return ""
    title, about = "What became of the weights", "; ".join(facts.fates)
    sizes: Counter[str] = Counter()
    for row in facts.ledger.rows:
        sizes[row.fate] += row.numel if row.fate in FATES else 0
    total = max(sizes.total(), 1)
    pieces = [
        (f"{fate}: {sizes[fate]:,} numbers", sizes[fate] / total, class_)
        for fate, class_ in FATES.items()
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
    classes = dict.fromkeys(FATES[row.fate] for row in facts.ledger.rows if row.fate in FATES)
    names = {"frozen": "as in the base model", "tuned": "trained", "new": "new"}
    legend = html.legend((class_, names[class_]) for class_ in classes)
    fates = html.items(map(html.escaped, facts.fates), "plain")
    return f"<figure>{html.heading(title)}{picture}{legend}</figure>{fates}{html.paragraph(proof)}"


def _forgetting(facts: ReportFacts) -> str:
    """Whether fine-tuning undid what the base model knew, where what ships was fine-tuned."""
    notes = [note.action for note in facts.summary.guards if note.kind == "forgetting"]
    texts = [
        str(event.values.get("text", ""))
        for event in facts.events
        if notes and event.kind == "guard" and event.values.get("guard") == "forgetting"
    ]
    texts = [sentence(text) for text in texts or notes]
    if not texts and facts.ledger is None:
        return ""
    body = "".join(map(html.paragraph, texts or [_no_forgetting(facts)]))
    return html.heading("Forgetting") + body


def _no_forgetting(facts: ReportFacts) -> str:
    many, rows = facts.nouns.many, facts.ledger.rows if facts.ledger is not None else ()
    fates = {row.fate for row in rows}
    has_new = any(row.fate == "new" and row.block not in NOT_LAYERS for row in rows)
    if has_new and fates <= {"new", "dropped"}:
        return "The layers were trained from scratch: there was no base model to forget."
    if not fates.isdisjoint(TRAINED):
        return (
            f"The fine-tuned layers still tell these {many} apart as well as the base model's did: "
            f"no forgetting was seen. On other kinds of {many} this was not measured."
        )
    if "reshaped" in fates:
        return (
            f"No layer was trained. The input was adapted to {many} of another kind than the base "
            "model's; its accuracy on its own kind was not measured."
        )
    if has_new:
        return "The layers of the base model were not changed; the others are new."
    return "None is possible: no layer of the base model was changed."


# ---- Answers that are several labels, or a number.


def answers_section(facts: ReportFacts) -> str:
    """Each label with its scores, or predictions against targets; empty for classes."""
    if facts.target.has_classes:
        return ""
    test, text = facts.summary.test, "Each example was predicted by a model not trained on it."
    if test is not None:
        text += f" On the test set: {other_metrics(test)}"
    return html.section(
        "answers",
        "Answers: how good they are on held-out examples",
        html.paragraph(text),
        _labels(facts),
        _numbers(facts),
    )


def _labels(facts: ReportFacts) -> str:
    def order(score: LabelScore) -> tuple[float, str]:
        return score.average_precision or 0.0, score.label

    head = ["label", facts.nouns.many, "average precision"]
    head += ["F1", "precision", "recall", "threshold"]
    rows = []
    for one in sorted(facts.label_scores, key=order):
        average = "" if one.average_precision is None else f"{one.average_precision:.2f}"
        scores = (f"{x:.2f}" for x in (one.f1, one.precision, one.recall, one.threshold))
        rows.append((one.label, f"{one.n:,}", average, *scores))
    return html.table("Labels, the weakest first", head, rows)


def _numbers(facts: ReportFacts) -> str:
    if not facts.numbers:
        return ""
    half, title = facts.half_width, "Predictions against targets"
    about = f"{len(facts.numbers):,} held-out examples; on the line a prediction is right."
    if half is not None:
        about += f" Within the band (± {half:.3g}) lie 9 of 10."
    picture = scatter(facts.numbers, half, name="numbers", title=title, about=about)
    return html.figure(title, picture, about)
