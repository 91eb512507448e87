"""Proof: how good it is, where it errs, and that the frozen weights are what they were."""

from __future__ import annotations

from collections import Counter

from warmstart.formatting import at_most, interval, percent, sentence
from warmstart.records.judged import ClassScore
from warmstart.records.network import Ledger
from warmstart.records.summary import Scores
from warmstart.reporting import html
from warmstart.reporting.bars import Piece, diagram, stacked
from warmstart.reporting.confusion_matrix import PART, WHOLE, commonest, confusion, small_map
from warmstart.reporting.facts import Facts
from warmstart.reporting.line import interval_bar
from warmstart.reporting.pictures import shots, worst
from warmstart.tasks.words import percent as percent_of

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


def proof_section(facts: Facts) -> str:
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


def _numbers(facts: Facts) -> str:
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


def _classes(facts: Facts) -> str:
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


def _worst(facts: Facts) -> str:
    found = worst(facts)
    if not found:
        return html.paragraph("It made no mistake on examples held out.") if facts.held else ""
    n = facts.summary.data.train
    shown = [
        (said.id, f"{said.target}, taken for {said.label} ({percent(said.probability, n)} sure)")
        for said in found
    ]
    return html.heading("Its worst mistakes, the surest first") + shots(facts, shown)


def _certainty(facts: Facts) -> str:
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


def _promise(facts: Facts) -> str:
    """What “sure” and “unlike anything” mean in its answers."""
    calibration, held = facts.calibration, facts.held
    if calibration is None or not held:
        return ""
    title = html.heading("What “confident” means here")
    if calibration.sure_from is None:
        return (
            f"<div>{title}"
            + html.paragraph(
                "Nothing is called confident: there are too few examples to promise anything."
            )
            + "</div>"
        )
    sure = [said for said in held if said.probability >= calibration.sure_from]
    wrong = sum(not said.is_right for said in sure)
    text = (
        f"An answer is called confident from {percent(calibration.sure_from, len(held))} on. Of "
        f"{facts.nouns.count(len(held))} held out {len(sure):,} were confident, and {wrong:,} of "
        f"those wrong. Promised, with 95 % certainty: at most "
        f"{at_most(calibration.promised_error)} % of the confident ones are."
    )
    return f"<div>{title}{html.paragraph(text)}</div>"


# ---- weights -----------------------------------------------------------------------------


def ledger_figure(facts: Facts) -> str:
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


def _fates(ledger: Ledger) -> list[Piece]:
    sizes: Counter[str] = Counter()
    for row in ledger.rows:
        if row.fate in FATES:
            sizes[row.fate] += row.numel
    total = max(sizes.total(), 1)
    return [
        Piece(f"{FATES[fate][1]}: {sizes[fate]:,} numbers", sizes[fate] / total, FATES[fate][0])
        for fate in FATES
        if sizes[fate]
    ]


def _forgetting(facts: Facts) -> str:
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
    has_new = any(row.fate == "new" and row.part not in NOT_LAYERS for row in facts.ledger.rows)
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
