"""Proof: how accurate the model is, where it errs, and that frozen weights did not change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from warmstart.formatting import at_most, percent, sentence
from warmstart.records.summary import ClassScore, LabelScore, Scores
from warmstart.reporting.facts import HeldOutAnswer, ReportFacts
from warmstart.reporting.figures import (
    Bar,
    Counts,
    Figure,
    diagram,
    interval_bar,
    lying,
    matrix,
    scatter,
    stacked,
)
from warmstart.reporting.markup import Values, short
from warmstart.tasks.registry import other_metrics, test_estimate
from warmstart.tasks.words import percent as percent_of

WORST = 12  # mistakes that are shown
WHOLE = 16  # classes up to which the matrix shows all of them
MOST_CLASSES = 12  # of more classes, those with the most mistakes
MOST_PAIRS, NAME = 10, 15  # pairs of classes that are named, with so many letters
MAPPED = 250  # classes up to which the small map is drawn
OTHERS = "all others"


def _confusion(facts: ReportFacts) -> dict[str, Figure | None]:
    """Matrix and mistakes; of many classes those with the most mistakes, and a small map."""
    held_out = facts.held_out
    counts = Counter((one.target, one.label) for one in held_out)
    if not counts:
        return dict.fromkeys(("confusion", "mistakes", "map"))
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
    return {
        "confusion": Figure(title, picture, caption, is_wide=True),
        "mistakes": _commonest(pairs, mistakes),
        "map": _small_map(counts, names, mistakes),
    }


def _commonest(pairs: Sequence[tuple[tuple[str, str], int]], about: str) -> Figure | None:
    if not pairs:
        return None
    most = pairs[0][1]
    bars = [
        Bar(f"{short(a, NAME)} → {short(b, NAME)}", n / most, f"{n:,}", "bar bad")
        for (a, b), n in pairs[:MOST_PAIRS]
    ]
    title = "The commonest mistakes"
    picture = lying(bars, name="mixed", title=title, about=about)
    more = len(pairs) - MOST_PAIRS
    rarer = f" {more:,} more pairs are rarer." if more > 0 else ""
    return Figure(title, picture, f"True class → answer.{rarer}")


def _small_map(counts: Counts, names: Sequence[str], about: str) -> Figure | None:
    """All classes at once, where they are too many for a matrix with numbers."""
    if not WHOLE < len(names) <= MAPPED:
        return None
    title = f"All {len(names)} classes at once"
    picture = matrix(counts, names, names, is_small=True, name="map", title=title, about=about)
    caption = "Rows are classes, columns answers, both in alphabetical order."
    return Figure(title, picture, caption, is_wide=True)


def proof_values(facts: ReportFacts) -> Values:
    values: Values = {"ledger": _ledger(facts)}
    if not (facts.target.has_classes and facts.ships):
        return values
    n, rows = facts.summary.data.train, _classes(facts)
    head = ["class", facts.nouns.many, "recall (95 % CI)", "0 to 100 %", "precision"]
    head += ["most often taken for", *(["recall in the test set"] if facts.test_classes else [])]
    worst_captions = [
        (one.id, f"{one.target}, taken for {one.label} with {percent(one.probability, n)}")
        for one in worst(facts)
    ]
    return {
        **values,
        **_confusion(facts),
        "scores": _scores(facts),
        "head": head,
        "classes": rows,
        "n_first": len(rows) if len(rows) <= WHOLE else MOST_CLASSES,
        "worst": worst_captions,
        "calibration": _calibration(facts),
        "confident": _confident(facts),
        "forgetting": _forgetting(facts),
        "change": _change(facts),
    }


def _scores(facts: ReportFacts) -> list[tuple[str, str]]:
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
    return rows


def _classes(facts: ReportFacts) -> list[list[str]]:
    """A row for each class, the weakest first."""
    overall = sum(one.is_right for one in facts.held_out) / max(len(facts.held_out), 1)
    test_scores = {score.label: score for score in facts.test_classes}
    rows = []
    for score in sorted(facts.classes, key=lambda score: (score.recall, score.n, score.label)):
        row = _class(score, overall)
        if test_scores:
            test, cell = test_scores.get(score.label), "–"
            if test is not None:
                cell = f"{test.short_interval}, of {test.n:,}"
            row.append(cell)
        rows.append(row)
    return rows


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
        interval_bar(score.recall, score.low, score.high, overall),
        precision,
        confused_with,
    ]


def worst(facts: ReportFacts) -> tuple[HeldOutAnswer, ...]:
    """The most confident mistakes among held-out examples."""
    wrong = [one for one in facts.held_out if not one.is_right]
    return tuple(sorted(wrong, key=lambda one: (-one.probability, one.id))[:WORST])


def _calibration(facts: ReportFacts) -> Figure | None:
    confidence = facts.confidence
    if confidence is None:
        return None
    title = "Calibration: is it right as often as it is confident?"
    picture = diagram(confidence.bins, name="certainty", title=title, about=confidence.sentence)
    caption = (
        f"{confidence.sentence} On the dashed line accuracy equals confidence; each dot stands for "
        "as many answers, its bar is the 95 % interval."
    )
    return Figure(title, picture, caption)


def _confident(facts: ReportFacts) -> tuple[int, int, str, str] | None:
    """Confident answers and those of them that are wrong; the threshold, the promised error."""
    calibration, held_out = facts.calibration, facts.held_out
    if calibration is None or calibration.confident_from is None:
        return None
    threshold = calibration.confident_from
    confident = [one for one in held_out if one.probability >= threshold]
    wrong = sum(not one.is_right for one in confident)
    error = at_most(calibration.promised_error)
    return len(confident), wrong, percent(threshold, len(held_out)), error


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


def _ledger(facts: ReportFacts) -> Figure | None:
    if facts.ledger is None:
        return None
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
    classes = dict.fromkeys(FATES[row.fate] for row in facts.ledger.rows if row.fate in FATES)
    names = {"frozen": "as in the base model", "tuned": "trained", "new": "new"}
    return Figure(title, picture, legend=[(class_, names[class_]) for class_ in classes])


def _forgetting(facts: ReportFacts) -> list[str]:
    """What the guards said of forgetting, where what ships was fine-tuned."""
    notes = [note.action for note in facts.summary.guards if note.kind == "forgetting"]
    texts = [
        str(event.values.get("text", ""))
        for event in facts.events
        if notes and event.kind == "guard" and event.values.get("guard") == "forgetting"
    ]
    return [sentence(text) for text in texts or notes]


def _change(facts: ReportFacts) -> str:
    """What happened to the layers of the base model: scratch, trained, reshaped, new or none."""
    rows = facts.ledger.rows if facts.ledger is not None else ()
    fates = {row.fate for row in rows}
    has_new = any(row.fate == "new" and row.block not in NOT_LAYERS for row in rows)
    if has_new and fates <= {"new", "dropped"}:
        return "scratch"
    if not fates.isdisjoint(TRAINED):
        return "trained"
    if "reshaped" in fates:
        return "reshaped"
    return "new" if has_new else "none"


# ---- Answers that are several labels, or a number.


def answers_values(facts: ReportFacts) -> Values:
    """Each label with its scores, or predictions against targets; empty for classes."""
    if facts.target.has_classes:
        return {}
    test = facts.summary.test
    return {
        "metrics": "" if test is None else other_metrics(test),
        "labels": _labels(facts),
        "scatter": _scatter(facts),
    }


def _labels(facts: ReportFacts) -> list[tuple[str, ...]]:
    def order(score: LabelScore) -> tuple[float, str]:
        return score.average_precision or 0.0, score.label

    rows = []
    for one in sorted(facts.label_scores, key=order):
        average = "" if one.average_precision is None else f"{one.average_precision:.2f}"
        scores = (f"{x:.2f}" for x in (one.f1, one.precision, one.recall, one.threshold))
        rows.append((one.label, f"{one.n:,}", average, *scores))
    return rows


def _scatter(facts: ReportFacts) -> Figure | None:
    if not facts.numbers:
        return None
    half, title = facts.half_width, "Predictions against targets"
    about = f"{len(facts.numbers):,} held-out examples; on the line a prediction is right."
    if half is not None:
        about += f" Within the band (± {half:.3g}) lie 9 of 10."
    picture = scatter(facts.numbers, half, name="numbers", title=title, about=about)
    return Figure(title, picture, about)
