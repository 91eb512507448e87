"""Proof: how good it is, where it errs, and that the frozen weights are what they were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from warmstart.delivery.figures.bars import Bar, Piece, lying, stacked
from warmstart.delivery.figures.certainty import diagram
from warmstart.delivery.figures.line import interval_bar
from warmstart.delivery.figures.matrix import Table, matrix, small_matrix
from warmstart.delivery.figures.svg import short
from warmstart.delivery.numbers import at_most, count, interval, percent, sentence
from warmstart.delivery.report import html
from warmstart.delivery.report.facts import Facts, Said
from warmstart.delivery.report.pictures import shots, worst
from warmstart.records import ClassScore, Ledger

WHOLE = 16  # classes up to which the matrix shows all of them
PART = 12  # of more classes, those with the most mistakes
MIXED, NAME = 10, 15  # pairs of classes that are named, with so many letters
MAPPED = 250  # classes up to which the small map is drawn
OTHERS = "all others"
FATES = {
    "frozen": ("frozen", "frozen"), "kept": ("frozen", "kept"), "copied": ("frozen", "copied"),
    "trained": ("tuned", "trained"), "merged": ("tuned", "merged"),
    "reshaped": ("tuned", "reshaped"), "new": ("new", "new"),
}  # fmt: skip


def proof_section(facts: Facts) -> str:
    """Numbers, confusion, classes, worst mistakes, certainty, weights, forgetting."""
    if not facts.ships and not facts.held:
        return ""
    return html.section(
        "proof", "Proof: how good it is, and how far to trust it",
        _numbers(facts), html.side_by_side(_confusion(facts), _mixed(facts)), _map(facts),
        _classes(facts), _worst(facts), _certainty(facts), _ledger(facts), _forgetting(facts),
    )  # fmt: skip


def _numbers(facts: Facts) -> str:
    estimate, test = facts.summary.estimate, facts.summary.test
    rows = []
    if estimate is not None:
        shown = interval(estimate.value, estimate.low, estimate.high, estimate.n)
        rows.append((shown, f"right, on {count(estimate.n, 'image')} it had not seen"))
    if test is not None:
        shown = interval(test.accuracy, test.low, test.high, test.n)
        rows.append((shown, f"right, on your {count(test.n, 'test image')}, looked at once"))
        rows.append((f"{test.balanced_accuracy:.3f}", "balanced accuracy (test)"))
        rows.append((f"{test.macro_f1:.3f}", "macro F1 (test)"))
        rows.append((f"{test.log_loss:.3f}", "log-loss (test)"))
    return html.figures(rows) + html.paragraph(
        "What follows is about examples to learn from, each judged by a model that had not seen "
        "it; the test part is kept for its figure, so that nothing is tuned to it.", "note",
    ) if rows else ""  # fmt: skip


# ---- confusion ---------------------------------------------------------------------------


def _confusion(facts: Facts) -> str:
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
    about = f"{right:,} of {count(len(facts.held), 'image')} are right; {_words_of(facts.held)}"
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


def _mixed(facts: Facts) -> str:
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


def _map(facts: Facts) -> str:
    """All classes at once, where they are too many for a table of figures."""
    names = _order(facts.held)
    if not WHOLE < len(names) <= MAPPED:
        return ""
    table = Table(names, names, Counter((said.target, said.label) for said in facts.held))
    title = f"All {len(names)} classes at once"
    picture = small_matrix(table, name="map", title=title, about=_words_of(facts.held))
    caption = "Rows are classes, columns answers, both in the order of the alphabet."
    return html.fold(title, html.figure(title, picture, caption, wide=True))


# ---- classes, mistakes, certainty --------------------------------------------------------


def _classes(facts: Facts) -> str:
    """One row a class: how many are found, with the interval, and how far its name holds."""
    if not facts.classes:
        return ""
    tested = {score.label: score for score in facts.tested}
    overall = sum(said.is_right for said in facts.held) / max(len(facts.held), 1)
    head = ["class", "images", "found (95 % interval)", "0 to 100 %", "right when it says so",
            "most often taken for"]  # fmt: skip
    rows = [_class(score, overall) for score in sorted(facts.classes, key=_weakness)]
    if tested:
        head.append("found in your test part")
        rows = [[*row, _tested(tested.get(score.label))] for row, score in
                zip(rows, sorted(facts.classes, key=_weakness), strict=True)]  # fmt: skip
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
        html.escaped(score.label), f"{score.n:,}",
        html.escaped(interval(score.recall, score.low, score.high, score.n)),
        interval_bar(score.recall, score.low, score.high, overall),
        html.escaped(precision), html.escaped(taken),
    ]  # fmt: skip


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
    return html.heading("Its worst mistakes: wrong, and sure of it") + shots(facts, shown)


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
    if calibration.sure_from is None:
        return f"<div>{html.heading('What “sure” means here')}" + html.paragraph(
            "Nothing is called sure: there are too few examples to promise anything."
        ) + "</div>"  # fmt: skip
    sure = [said for said in held if said.probability >= calibration.sure_from]
    wrong = sum(not said.is_right for said in sure)
    text = (
        f"An answer is called sure from {percent(calibration.sure_from, len(held))} on. Of "
        f"{count(len(held), 'image')} held out {len(sure):,} were sure, and {wrong:,} of those "
        f"wrong. Promised, with 95 % certainty: at most {at_most(calibration.promised_error)} % of "
        "the sure ones are."
    )
    return f"<div>{html.heading('What “sure” means here')}{html.paragraph(text)}</div>"


# ---- weights -----------------------------------------------------------------------------


def _ledger(facts: Facts) -> str:
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
            f"{said} the same as in the start, bit for bit (SHA-256 of each in "
            "weights_ledger.json)."
        )
    used = dict.fromkeys(FATES[row.fate][0] for row in facts.ledger.rows if row.fate in FATES)
    names = {"frozen": "as in the start", "tuned": "trained", "new": "new"}
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
    """Whether tuning undid what the start knew."""
    seen = [note for note in facts.summary.guards if note.kind == "forgetting"]
    told = [
        str(event.values.get("text", ""))
        for event in facts.events
        if event.kind == "guard" and event.values.get("guard") == "forgetting"
    ]
    if told or seen:
        words = told or [note.action for note in seen]
        return html.heading("Forgetting") + "".join(html.paragraph(sentence(w)) for w in words)
    if any(event.kind == "step" for event in facts.events):
        return html.heading("Forgetting") + html.paragraph(
            "The tuned layers still tell these images apart as the start's did; nothing that it "
            "knew was seen to go. On other kinds of images this was not measured."
        )
    if facts.ships:
        return html.heading("Forgetting") + html.paragraph(
            "None is possible: no layer of the start was changed."
        )
    return ""
