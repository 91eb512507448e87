"""Reports of multilabel classification and regression, where these differ from classification."""

from __future__ import annotations

from warmstart.formatting import interval
from warmstart.records.answer import NumberCalibration
from warmstart.records.summary import Estimate, LabelScore
from warmstart.reporting import html
from warmstart.reporting.facts import ReportFacts
from warmstart.reporting.figures import MeasuredShare, on_a_line, scatter
from warmstart.reporting.first_screen import captioned, probe_marks, screen, use_text, warnings
from warmstart.reporting.next_steps import NextStep, has_issues, labels_step, repair_step, use_step
from warmstart.reporting.proof import ledger_figure
from warmstart.tasks.words import TASK_WORDS, other_metrics, test_estimate


def first_screen(facts: ReportFacts) -> str:
    """Readiness, the score as a picture, how the model can be used."""
    data = facts.summary.data
    words = TASK_WORDS[facts.summary.task].output.format(data.classes)
    sizes = f"{facts.nouns.count(data.train, 'training')}, {words}"
    return screen(facts, sizes, _picture(facts), would_use(facts), next_steps(facts))


def answers_section(facts: ReportFacts) -> str:
    """Each label with its scores, or predictions against targets."""
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


def _picture(facts: ReportFacts) -> str:
    claims: list[tuple[Estimate, str]] = []
    if facts.summary.test is not None:
        claims.append((test_estimate(facts.summary.test), "on the test set"))
    if facts.summary.estimate is not None:
        claims.append((facts.summary.estimate, "on held-out examples"))
    if not claims:
        return ""
    measures = []
    for claim, where in claims:
        words = f"{interval(claim.value, claim.low, claim.high, claim.n)} {where}"
        value, low, high = (min(max(x, 0.0), 1.0) for x in (claim.value, claim.low, claim.high))
        is_main = claim is facts.summary.estimate
        measures.append(MeasuredShare(words, value, low, high, is_main=is_main))
    title = f"{TASK_WORDS[facts.summary.task].name}, in per cent"
    about = "; ".join(measure.words for measure in measures)
    picture = on_a_line(measures, probe_marks(facts), name="score", title=title, about=about)
    return captioned(picture, f"{title}; the bar is the 95 % confidence interval.")


def would_use(facts: ReportFacts) -> list[str]:
    """How far the answers can be used."""
    if not facts.ships:
        return [f"No: nothing was shipped, for {facts.summary.shipped.why.rstrip('.')}."]
    return [use_text(facts), _how_far(facts), *warnings(facts)]


def _how_far(facts: ReportFacts) -> str:
    calibration = facts.calibration
    if not isinstance(calibration, NumberCalibration):
        return (
            "Each label has its own threshold, chosen for the best F1. The table below says label "
            "by label how far to trust it."
        )
    half = calibration.half_width
    if half is None:
        return "Too few examples to guarantee an interval: review each answer."
    return (
        f"The truth lies within ± {half:.3g} of 9 of 10 answers for {facts.nouns.many} like these: "
        "that is the interval of every answer. Use the model where that is near enough."
    )


def next_steps(facts: ReportFacts) -> tuple[NextStep, ...]:
    """The labels to look at, more images, use: three at most, the most urgent first."""
    labels, use, curve = labels_step(facts), use_step(facts), facts.evidence("learning_curve")
    more = None
    if curve is not None:
        more = NextStep(title=f"More {facts.nouns.many}", text=curve.meaning)
    ordered = (labels, more, use) if has_issues(facts) or not facts.ships else (more, labels, use)
    return tuple(step for step in (repair_step(facts), *ordered) if step is not None)[:3]


def weights_section(facts: ReportFacts) -> str:
    """The proof that frozen weights did not change."""
    return html.section("proof", "Proof: what became of the weights", ledger_figure(facts))


def _labels(facts: ReportFacts) -> str:
    def order(score: LabelScore) -> tuple[float, str]:
        return score.average_precision or 0.0, score.label

    head = (
        "label",
        facts.nouns.many,
        "average precision",
        "F1",
        "precision",
        "recall",
        "threshold",
    )
    rows = []
    for one in sorted(facts.label_scores, key=order):
        average = "" if one.average_precision is None else f"{one.average_precision:.2f}"
        scores = (f"{x:.2f}" for x in (one.f1, one.precision, one.recall, one.threshold))
        rows.append((html.escaped(one.label), f"{one.n:,}", average, *scores))
    return html.table("Labels, the weakest first", head, rows)


def _numbers(facts: ReportFacts) -> str:
    if not facts.numbers:
        return ""
    calibration = facts.calibration
    half = calibration.half_width if isinstance(calibration, NumberCalibration) else None
    title = "Predictions against targets"
    about = f"{len(facts.numbers):,} held-out examples; on the line a prediction is right."
    if half is not None:
        about += f" Within the band (± {half:.3g}) lie 9 of 10."
    picture = scatter(facts.numbers, half, name="numbers", title=title, about=about)
    return html.figure(title, picture, about)
