"""A new finding is one object: its code, its words and its place follow on every surface."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from pages_as_text import DOCS
from warmstart.evaluation.readiness import Measurements, by_consequence, readiness
from warmstart.records.findings import FINDINGS, Finding, FindingKind, codes, without
from warmstart.records.run_folder import read_json, write_json
from warmstart.records.summary import Estimate, Summary
from warmstart.reporting.report import report
from warmstart.terminal.result_text import result_text

BLURRED = FindingKind(
    name="blurred",
    code="WS305",
    consequence=3,
    is_folded=False,
    review="the {many} are blurred",
    warning="But the {many} are blurred.",
)


@pytest.fixture
def finding(monkeypatch):
    monkeypatch.setitem(FINDINGS, BLURRED.name, BLURRED)
    return Finding(kind="blurred", sentence="9 images are blurred", items=("a.jpg",))


def test_a_toy_finding_has_its_code_and_can_be_ignored(finding):
    assert finding.text == "9 images are blurred (WS305)."
    assert without([finding], ["WS305"]) == ()
    assert codes()[-1] == "WS305"


def test_a_toy_finding_asks_for_review_in_its_place(finding):
    folded = Finding(kind="conflict", sentence="…")
    graver = Finding(kind="leakage", sentence="…")
    assert by_consequence([folded, finding, graver]) == (graver, finding, folded)
    good = Estimate(metric="accuracy", value=0.95, low=0.92, high=0.97, n=300, method="nested-cv")
    measured = Measurements(
        task="classify",
        estimate=good,
        test=None,
        blind=(0.1, "a"),
        findings=[finding],
        many="clips",
    )
    result = readiness(measured)
    assert (result.level, result.reasons[0]) == ("review", "the clips are blurred")


def test_a_toy_finding_stands_in_the_terminal_and_in_the_report(finding, own_run):
    file = own_run / "summary.json"
    write_json(file, replace(read_json(file, Summary), findings=(finding,)))
    summary = read_json(file, Summary)
    assert "9 images are blurred (WS305)." in result_text(summary, own_run, None)
    report(own_run)
    page = (own_run / "report.html").read_text("utf-8")
    assert "9 images are blurred (WS305)." in page
    assert "But the images are blurred." in page


@pytest.mark.parametrize("kind", FINDINGS.values(), ids=FINDINGS)
def test_every_finding_has_its_page_and_its_row(kind):
    page = (DOCS / "findings" / f"{kind.code}.md").read_text("utf-8")
    assert page.startswith(f"# {kind.code} {kind.name}\n")
    row = rf"^\| \[{kind.code}\]\(findings/{kind.code}\.md\) \| `{kind.name}` \| .+ \|$"
    assert re.search(row, (DOCS / "findings.md").read_text("utf-8"), re.M)
