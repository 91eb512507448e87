"""Reports of models of several labels and of numbers: the words are those of the task."""

from dataclasses import replace

import pytest

from issues import issue, issues
from reports import facts, summary
from warmstart.records.data import DataRecord, Example
from warmstart.records.findings import Finding
from warmstart.records.summary import Inspection
from warmstart.reporting.first_screen import next_steps
from warmstart.reporting.report import section

ISSUES = {
    "multilabel": issue("1.png", "", "cat", concerns=("cat",)),
    "regress": issue("1.png", "102", "10.2", probability=None),
}
LABELS = {"multilabel": ("cat|dog", "", "dog"), "regress": ("1.5", "102", "3")}
OUTPUTS = {"multilabel": ("cat", "dog"), "regress": ("age",)}


def of_task(task, is_issue=True):
    """Facts of a small run of one task with a label that looks wrong."""
    examples = tuple(
        Example(id=f"{n}.png", label=label, split="train", sha256=str(n))
        for n, label in enumerate(LABELS[task])
    )
    data = DataRecord(
        name="t", kind="image", task=task, layout="", classes=OUTPUTS[task], examples=examples
    )
    plain = summary()
    counts = replace(plain.data, classes=len(OUTPUTS[task]), label_issues=1)
    finding = Finding(kind="metadata-leakage", sentence="The size tells.", items=("a",))
    label_issues = issues(replace(ISSUES[task], is_issue=is_issue))
    return facts(
        summary=replace(plain, task=task, data=counts, findings=(finding,)),
        data=data,
        inspection=Inspection(evidence=(), label_issues=label_issues),
    )


@pytest.mark.parametrize("task", ISSUES)
def test_nothing_speaks_of_classes(task):
    task_facts = of_task(task)
    page = "".join(section(name, task_facts) for name in ("data", "base", "plan", "first_screen"))
    for word in (" classes", "largest class", " right of the time"):
        assert word not in page, word
    assert {"multilabel": "gives a label away", "regress": "gives the number away"}[task] in page


def test_a_set_that_looks_wrong_is_shown_with_what_it_should_be():
    page = section("data", of_task("multilabel"))
    assert "labelled nothing, looks like cat (97\u00a0%)" in page
    assert "Images of each label" in page


def test_a_number_that_looks_wrong_is_shown_with_what_the_model_says():
    page = section("data", of_task("regress"))
    assert "labelled 102, looks like 10.2<" in page
    assert ">Label issues<" in page
    assert "Numbers from 1.5 to 102; half of them lie between" in page


@pytest.mark.parametrize("task", ISSUES)
def test_what_is_urgent_comes_first(task):
    first = next_steps(of_task(task))[0]
    assert (first.title, first.examples[0][0]) == ("Check 1 label issue", "1.png")
    assert "--relabel" in first.command
    later = [step.title for step in next_steps(of_task(task, is_issue=False))]
    assert "No label issues found" in later[1:]
