"""Sentences take the noun of what a run is about: none but those of image runs name images."""

from __future__ import annotations

import ast
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

import reports
from run_texts import OF_IMAGES, of_images, text_of
from warmstart.modalities.registry import MODALITIES
from warmstart.planning import verdict
from warmstart.records.findings import Finding
from warmstart.reporting.report import page
from warmstart.tasks.registry import TASKS

SOURCE = Path(__file__).parents[1] / "src" / "warmstart"
OTHERS = sorted(MODALITIES.keys() - {"image"})
CLEAR = {"p": 0.001, "mde": 0.1}
FACTS = (
    verdict.VerdictFacts(p=0.2, mde=0.31),
    verdict.VerdictFacts(p=0.2, mde=1.0),
    verdict.VerdictFacts(p=0.2, mde=0.1),
    verdict.VerdictFacts(p=0.2, mde=0.1, n=39),
    verdict.VerdictFacts(p=0.2, mde=0.1, plain=0.4, plain_p=0.001),
    *(
        verdict.VerdictFacts(
            **CLEAR,
            transfer_gain=gain,
            transfer_gain_error=0.02,
            accuracy=accuracy,
            scratch_gap=gap,
            is_tuned=tuned,
        )
        for gain, accuracy, gap, tuned in product(
            (None, 0.01, 0.05, 0.3), (0.6, 0.99), (None, 0.1), (0, 1)
        )
    ),
)


@pytest.mark.parametrize("kind", OTHERS)
def test_no_verdict_on_other_kinds_speaks_of_images(kind):
    models = [
        replace(one, nouns=MODALITIES[kind].nouns)
        for one in (verdict.BASE, verdict.OWN, verdict.BLANK)
    ]
    for facts, base, task_words in product(FACTS, models, [one.words for one in TASKS.values()]):
        sentence = verdict.sentence(verdict.verdict_kind(facts), facts, 90, 0.8, task_words, base)
        assert not of_images(sentence)


def test_a_verdict_names_the_kind_the_base_model_knows():
    facts = verdict.VerdictFacts(**CLEAR, transfer_gain=0.3, transfer_gain_error=0.02)
    for kind, noun in (("image", "picture"), ("text", "text"), ("audio", "clip"), ("table", "row")):
        base = verdict.basis_of(None, MODALITIES[kind].nouns)
        sentence = verdict.sentence("inconclusive", facts, 90, 0.8, basis=base)
        assert f"this base model knows this kind of {noun}." in sentence


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize(
    "case", ["full", "no signal", "no training", "no pictures", "many classes"]
)
def test_no_report_on_other_kinds_speaks_of_images(kind, case):
    facts = reports.cases()[case]
    count = replace(facts.summary.data, kind=kind)
    every_kind = tuple(
        Finding(kind=name, sentence="…")
        for name in (
            "leakage",
            "distribution-shift",
            "metadata-leakage",
            "spurious-correlation",
            "preprocessing",
            "label-issue",
            "off-topic",
        )
    )
    record = facts.data and replace(facts.data, kind=kind)
    for findings in (every_kind, ()):
        summary = replace(facts.summary, data=count, findings=findings)
        changed = replace(facts, summary=summary, data=record)
        assert not of_images(text_of(page(changed)).replace(" 1 image could", ""))


# ---- the whole source --------------------------------------------------------------------------

# Modules that speak of images alone: layouts of image data, audits, exports in formats of images,
# augmentations, the studio. All others take their noun.
OF_IMAGES_ALONE = {
    "evidence": {"spurious.py"},
    "planning": {"check.py", "settings.py"},
    "training": {"batches.py"},
    "run": {"compare.py", "deliver.py", "plan.py", "predictor.py", "resume.py"},
    "terminal": {"result_text.py"},
    "reporting": set(),
    "evaluation": set(),
    "tasks": {"classify.py", "multilabel.py", "regress.py"},
}


@pytest.mark.parametrize("place", OF_IMAGES_ALONE)
def test_sentences_for_all_kinds_take_their_noun(place):
    names = {
        path.name
        for path in (SOURCE / place).rglob("*.py")
        if any(map(_speaks_of_images, _constants(path)))
    }
    assert names == OF_IMAGES_ALONE[place]


def _speaks_of_images(text: str) -> bool:
    return " " in text.strip() and bool(OF_IMAGES.search(text))


def _constants(path: Path) -> list[str]:
    """Every text in the code, documentation and names of fields in braces apart."""
    tree = ast.parse(path.read_text("utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    notes = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value.replace("{pixels}", "")
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in notes
    ]
