"""What `check` says: verdict, reasons, problems, and the command to type next, in 80 columns."""

from __future__ import annotations

from dataclasses import replace

from issues import issue, issues
from warmstart.cli.check import check_text
from warmstart.records.findings import Finding
from warmstart.records.summary import Checked, DataCounts, Evidence, Verdict

SIGNAL = Evidence(
    name="permutation_test",
    value=0.83,
    low=0.29,
    high=0.39,
    n=180,
    details={"p": 0.005, "mde": 0.12},
    meaning="The network's best guess is right 83 % of the time; with shuffled labels it is "
    "right 29 to 39 %.",
)
GAIN = replace(SIGNAL, name="fine_tuning_gain", value=None, meaning="Not measured.")
LEAK = Finding(
    kind="leakage",
    sentence="4 test images are in the training data as well.",
    items=("test/a/1.jpg", "test/a/2.jpg", "test/b/1.jpg", "test/b/2.jpg"),
)
ISSUE = issue("a/7.jpg", "a", "b", is_issue=False)
CHECKED = Checked(
    verdict=Verdict(
        kind="inconclusive",
        sentence="The labels can be learnt from this base model.",
        evidence=(SIGNAL, GAIN),
    ),
    data=DataCounts(
        train=180, test=20, classes=3, unreadable=0, near_duplicates=0, leaks=4, label_issues=0
    ),
    findings=(LEAK,),
    label_issues=issues(ISSUE),
    seconds={"total": 1.0},
    path=None,
)


def test_a_verdict_with_its_reasons_and_problems():
    assert (
        check_text(CHECKED, ["my photos", "--label", "kind"])
        == """\
Verdict   The labels can be learnt from this base model.

FAIL      WS104 leakage: 4 test images are in the training data as well:
          test/a/1.jpg, test/a/2.jpg, test/b/1.jpg and 1 more.
PASS      permutation test: The network's best guess is right 83 % of the time;
          with shuffled labels it is right 29 to 39 %.
PASS      label issues: No label issues found.
INFO      fine tuning gain: Not measured.

Next      warmstart check 'my photos' --label kind --out problems
          warmstart fit 'my photos' --label kind"""
    )


def test_files_are_named_and_the_list_comes_back():
    lines = check_text(replace(CHECKED, path="runs/my problems"), ["photos"]).splitlines()
    assert "Files     runs/my problems" in lines
    command = "warmstart fit photos --relabel 'runs/my problems'/label_issues.csv"
    assert any(command in line for line in lines)
    assert not any("--out" in line for line in lines)


def test_clean_data_is_called_clean_and_no_file_is_offered():
    text = check_text(replace(CHECKED, findings=(), label_issues=issues()), ["photos"])
    assert "PASS      findings: no problems found in the data." in text
    assert "--out" not in text
    assert text.endswith("Next      warmstart fit photos  # fine-tune on it")
    rows = check_text(CHECKED, ["photos"]).splitlines()[-2:]
    assert rows[0].endswith("warmstart check photos --out problems  # write the lists to files")


def test_without_a_signal_the_figures_come_first_and_no_fit_is_offered():
    verdict = replace(CHECKED.verdict, kind="no-signal", sentence="No signal found.")
    text = check_text(replace(CHECKED, verdict=verdict), ["photos"])
    assert text.startswith("No signal found")
    assert "warmstart fit" not in text
    assert "Traceback" not in text


def test_one_or_no_name_is_not_more():
    one = replace(LEAK, items=("test/a/1.jpg",))
    none = replace(LEAK, items=())
    text = check_text(replace(CHECKED, findings=(one, none)), ["photos"])
    assert "as well: test/a/1.jpg." in " ".join(text.split())
    assert "more" not in text.partition("FAIL")[2].partition("Next")[0]


def test_long_names_and_control_characters_do_not_break_the_lines():
    odd = Finding(kind="near-duplicate", sentence="1 image.", items=("x\x1b[2J/" + "y" * 100,))
    text = check_text(replace(CHECKED, findings=(odd,)), ["d" * 120])
    assert "\x1b" not in text
    assert "x?[2J/" in text
    for line in text.splitlines():
        assert len(line) <= 80 or "y" * 60 in line or "d" * 120 in line
    commands = [line for line in text.splitlines() if "warmstart" in line]
    assert not any("#" in line for line in commands)


def test_label_issues_are_listed_once_with_the_reason_for_no_count():
    counted = issues(issue("a/7.jpg", "a", "b"), sentence="1 label issue among 180 labels.")
    finding = Finding(kind="label-issue", sentence=counted.sentence, items=("a/7.jpg: a",))
    text = check_text(replace(CHECKED, label_issues=counted, findings=(finding,)), ["photos"])
    assert text.count("1 label issue among 180 labels") == 1
    weak = issues(ISSUE, count=None, why="weak-model", sentence="It is itself wrong about 4 in 10.")
    assert weak.sentence in check_text(replace(CHECKED, label_issues=weak), ["photos"])
    outcome = issues(ISSUE, count=None, why="outcome", sentence="A target is an outcome.")
    checked = replace(CHECKED, label_issues=outcome, path="out")
    assert "--relabel" not in check_text(checked, ["rows.csv"])  # nothing is to be corrected


def test_data_that_the_base_model_does_not_know_are_not_to_be_fine_tuned_on():
    verdict = replace(CHECKED.verdict, kind="no-transfer")
    text = check_text(replace(CHECKED, verdict=verdict), ["spectra"])
    assert "warmstart rank spectra" in text
    assert "warmstart fit spectra --strategy scratch" in text
    assert "fine-tune on it" not in text
