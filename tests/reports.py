"""Facts of made-up runs, for tests of the report: 3 classes, some wrong, some sure."""

from __future__ import annotations

import numpy as np

from issues import issue, issues
from warmstart.events import Event
from warmstart.records.answer import CalibrationRecord
from warmstart.records.block_actions import FROZEN, TUNED
from warmstart.records.comparison import ClassScore, Confidence, ConfidenceBin
from warmstart.records.data import DataRecord, Example
from warmstart.records.findings import Finding
from warmstart.records.network import Ledger, LedgerRow
from warmstart.records.plan import BlockPlan, Choice, HeadPlan, Plain, Plan, TrainingPlan
from warmstart.records.summary import (
    DataCounts,
    Estimate,
    Evidence,
    FineTuningGain,
    FrozenProof,
    GuardNote,
    Inspection,
    Readiness,
    Scores,
    ShippedCandidate,
    Summary,
    TensorCounts,
    Verdict,
)
from warmstart.reporting.facts import HeldOutAnswer, LayerRange, Repeat, ReportFacts

# The smallest JPEG: one grey pixel.
PICTURE = (
    "data:image/jpeg;base64,/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAKBueIx4ZKCMgoy0qqC+8P//8"
    "Nzc8P//////////////////////////////////////////////////////////wAALCAABAAEBAREA/"
    "8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQAAAF9AQIDAAQRB"
    "RIhMUEGE1FhByJxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTV"
    "FVWV1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKTlJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDx"
    "MXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx8vP09fb3+Pn6/9oACAEBAAA/ACv/2Q=="
)
CLASSES = ("dress", "hat", "shirt")
MANY = tuple(f"class number {i:02}" for i in range(80))
NASTY = '<script>alert("x")</script>'
EVIDENCE = (
    Evidence(
        name="permutation_test",
        value=0.82,
        low=0.06,
        high=0.15,
        n=300,
        meaning="It can be learnt.",
        details={"p": 0.005, "mde": 0.09, "null_mean": 0.1, "permutations": 199},
    ),
    Evidence(
        name="depth",
        value=0.01,
        low=-0.01,
        high=0.03,
        n=300,
        meaning="Layer 3 is best.",
        details={"block.1": 0.3, "block.2": 0.5, "block.3": 0.8, "block.4": 0.78, "best_block": 3},
    ),
    Evidence(
        name="learning_curve",
        value=0.04,
        low=0.02,
        high=0.06,
        n=300,
        meaning="About 30 more a class would add 4.0 points (2.0 to 6.0).",
        details={
            "accuracy.30": 0.6,
            "accuracy.100": 0.74,
            "accuracy.270": 0.82,
            "scale": 0.4,
            "exponent": 0.44,
        },
    ),
    Evidence(
        name="transfer_gain",
        value=0.27,
        low=0.16,
        high=0.38,
        n=96,
        meaning="It knows much.",
        details={"trained": 0.69, "shuffled": 0.27, "pixels": 0.42, "error": 0.05},
    ),
    Evidence(
        name="fine_tuning_gain", value=None, low=None, high=None, n=0, meaning="Not measured."
    ),
)


def summary(**changes: object) -> Summary:
    """A finished run of 300 images."""
    estimate = Estimate(
        metric="accuracy", value=0.83, low=0.77, high=0.88, n=300, method="nested-cv"
    )
    plain: dict[str, object] = {
        "task": "classify",
        "verdict": Verdict(
            kind="inconclusive", sentence="This base model knows it.", evidence=EVIDENCE
        ),
        "shipped": ShippedCandidate(strategy="head", why="a linear output, all blocks frozen"),
        "readiness": Readiness(level="review", reasons=("1 in 6 predictions is wrong",)),
        "estimate": estimate,
        "linear_probe": estimate,
        "fine_tuning_gain": None,
        "test": Scores(
            n=200,
            accuracy=0.78,
            low=0.72,
            high=0.84,
            balanced_accuracy=0.77,
            macro_f1=0.76,
            log_loss=0.6,
            ece=0.04,
        ),
        "data": DataCounts(
            train=300, test=200, classes=3, unreadable=1, near_duplicates=2, leaks=0, label_issues=1
        ),
        "base": TensorCounts(name="lite0", sha256="ab" * 32, parameters=4_652_008),
        "frozen": FrozenProof(parameters=198, buffers=34, identical=True),
        "guards": (),
        "findings": (
            Finding(kind="unreadable", sentence="1 image could not be read.", items=("x: torn",)),
            Finding(kind="near-duplicate", sentence="2 are copies.", items=("hat/000.jpg",)),
        ),
        "seconds": {"read": 1.0, "features": 12.0, "checks": 3.0, "head": 2.5, "total": 20.0},
        "peak_rss_mb": 900.0,
    }
    return Summary(**{**plain, **changes})


def answers(classes: tuple[str, ...] = CLASSES, each: int = 10) -> tuple[HeldOutAnswer, ...]:
    """Most of each class are right, the others taken for the next class."""
    predictions = []
    for k, name in enumerate(classes):
        for i in range(each):
            wrong = i < 1 + k % 3
            label = classes[(k + 1) % len(classes)] if wrong else name
            p = 0.6 + 0.03 * i
            own = 1 - p if wrong else p
            predictions.append(
                HeldOutAnswer(
                    id=f"{name}/{i:03}.jpg",
                    split="oof",
                    target=name,
                    label=label,
                    probability=p,
                    target_probability=own,
                )
            )
    return tuple(predictions)


def scores(rows: tuple[HeldOutAnswer, ...]) -> tuple[ClassScore, ...]:
    """Class by class, with rough intervals."""
    class_scores = []
    for name in sorted({row.target for row in rows}):
        own = [row for row in rows if row.target == name]
        recall = float(np.mean([row.is_right for row in own]))
        wrong = [row.label for row in own if not row.is_right]
        class_scores.append(
            ClassScore(
                label=name,
                n=len(own),
                recall=recall,
                low=max(recall - 0.2, 0.0),
                high=min(recall + 0.15, 1.0),
                precision=0.8,
                answers=10,
                confused_with=wrong[0] if wrong else None,
                n_confused=len(wrong),
            )
        )
    return tuple(class_scores)


def record(classes: tuple[str, ...] = CLASSES, each: int = 10) -> DataRecord:
    """The data behind `answers`."""
    examples = tuple(
        Example(id=f"{name}/{i:03}.jpg", label=name, split="train", sha256=f"{name}{i}")
        for name in classes
        for i in range(each)
    )
    return DataRecord(
        name="clothing",
        kind="image",
        task="classify",
        layout="folders",
        classes=classes,
        examples=examples,
    )


def ledger() -> Ledger:
    """Two tensors kept, one new, one dropped."""

    def row(name: str, fate: str, numel: int) -> LedgerRow:
        before, after = (None if fate == "new" else "a"), (None if fate == "dropped" else "a")
        return LedgerRow(
            tensor=name,
            block="p",
            fate=fate,
            shape=(numel,),
            numel=numel,
            buffer=False,
            before=before,
            after=after,
        )

    return Ledger(
        rows=(
            row("a", "frozen", 90),
            row("b", "trained", 40),
            row("c", "new", 10),
            row("d", "dropped", 20),
        )
    )


def training(guards: int = 1) -> tuple[Event, ...]:
    """One training with a part held out, one on all, and what a guard saw."""
    events = [Event(stage="fine_tune", kind="begin", values={"trainings": 2}, t=0.0)]
    for step in range(1, 201):
        values: dict[str, float | int | str] = {
            "loss": 2.0 / (1 + step / 40),
            "factor": 1.0,
            "job": 1 + (step > 100),
            "epoch": (step if step <= 100 else step - 100) / 20,
        }
        if step % 20 == 0 and step <= 100:
            values |= {"val": 0.7 + step / 1000, "head": 0.72}
        events.append(
            Event(stage="fine_tune", kind="step", step=step, of=200, values=values, t=0.0)
        )
    for _ in range(guards):
        values = {"title": "Guard", "text": "held-out examples got worse", "guard": "overfit"}
        events.append(Event(stage="fine_tune", kind="guard", values=values, t=0.0))
    return tuple(events)


def facts(names: tuple[str, ...] = CLASSES, **changes: object) -> ReportFacts:
    """All facts of a run with a test part, a training and a label issue."""
    rows = answers(names)
    first, second = names[:2]
    plain: dict[str, object] = {
        "place": "runs/clothing",
        "title": "EfficientNet-Lite0 (ImageNet)",
        "summary": summary(),
        "repeat": Repeat(
            command="warmstart fit clothing",
            data="clothing",
            budget="fast",
            is_own_strategy=False,
            rows=(("seed", "0"), ("torch", "2.13")),
        ),
        "data": record(names),
        "inspection": Inspection(
            evidence=EVIDENCE,
            label_issues=issues(issue(f"{first}/000.jpg", first, second)),
        ),
        "plan": plan(),
        "ledger": ledger(),
        "calibration": CalibrationRecord(
            temperature=1.0,
            class_bias=(0.0,) * len(names),
            confident_from=0.8,
            promised_error=0.02,
            ood_from=3.0,
            nearest=5,
        ),
        "answers": rows,
        "events": training(),
        "classes": scores(rows),
        "test_classes": scores(rows),
        "confidence": Confidence(
            sentence="Mean confidence 73 %, accuracy 80 %.",
            bins=(
                ConfidenceBin(confidence=0.62, accuracy=0.5, low=0.3, high=0.7, n=10),
                ConfidenceBin(confidence=0.85, accuracy=0.95, low=0.8, high=0.99, n=20),
            ),
        ),
        "layers": (
            LayerRange(layers="1–14", names="stem … b5", action=FROZEN, rates="", weights=90, n=14),
            LayerRange(
                layers="15–18", names="b6 … top", action=TUNED, rates="0.0003", weights=40, n=4
            ),
        ),
        "in_words": "Blocks 1–14 frozen · 15–18 fine-tuned at 0.0003",
        "fates": ("frozen    1 tensor, 90 weights, unchanged bit for bit",),
        "thumbs": {row.id: PICTURE for row in rows},
    }
    return ReportFacts(**{**plain, **changes})


def plan() -> Plan:
    """Two blocks frozen, one tuned; the rate is the user's."""

    def rule(value: Plain, because: str = "by rule") -> Choice:
        return Choice(value=value, because=because, source="rule")

    rate = Choice(value=3e-4, because="your choice (--lr)", source="user", rule=1e-4)
    return Plan(
        base=rule("lite0"),
        strategy=rule("last:1", "layers were worth trying"),
        blocks=(
            BlockPlan(name="stem", action=rule("frozen")),
            BlockPlan(name="blocks", action=rule("frozen")),
            BlockPlan(name="top", action=rule("tuned"), lr=rate),
            BlockPlan(name="output", action=rule("replaced"), lr=rate),
        ),
        head=HeadPlan(
            candidates=Choice(value=("last", "late"), because="label-free", source="rule"),
            penalties=rule(1.0),
            outer_folds=rule(10),
            permutations=rule(199),
        ),
        training=TrainingPlan(
            engine=Choice(value="torch", because="quickest here", source="measured"),
            batch_size=rule(32),
            seed=rule(0),
            lr=rate,
            flip=rule(True),
        ),
    )


def guard() -> GuardNote:
    """What a summary keeps of a guard."""
    return GuardNote(kind="forgetting", step=60, action="kept: it has the better validation loss")


def gain(value: float, low: float, high: float) -> FineTuningGain:
    """What fine-tuning changed, with its interval."""
    log_loss = {"log_loss": 0.5, "log_loss_change": -0.1}
    log_loss |= {"log_loss_low": -0.15, "log_loss_high": -0.05}
    return FineTuningGain(value=value, low=low, high=high, n=300, **log_loss)


def nothing() -> ReportFacts:
    """A run without a signal."""
    return facts(
        summary=summary(
            verdict=Verdict(
                kind="no-signal", sentence="No signal found in 300 examples.", evidence=EVIDENCE
            ),
            shipped=ShippedCandidate(strategy="none", why="no signal was found"),
            test=None,
        ),
        ledger=None,
        calibration=None,
        events=(),
        test_classes=(),
    )


def cases() -> dict[str, ReportFacts]:
    """Runs of every sort that the page must serve."""
    return {
        "full": facts(),
        "no signal": nothing(),
        "summary alone": ReportFacts(
            place="x", title="lite0", summary=summary(), repeat=facts().repeat
        ),
        "many classes": facts(MANY),
        "two classes": facts(("a", "b")),
        "no pictures": facts(thumbs={}),
        "no training": facts(events=()),
        "nasty": facts((NASTY, "b\"'&", "c\x00\x1b‮")),
    }
