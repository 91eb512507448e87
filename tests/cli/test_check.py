"""What `check` says: verdict, reasons, problems, and the command to type next, in 80 columns."""

from __future__ import annotations

from dataclasses import replace

from issues import issue, issues
from warmstart.cli.check import check_text
from warmstart.records.data import Finding
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
TAIL = Evidence(
    name="fine_tuning_gain", value=None, low=None, high=None, n=0, meaning="Not measured: no tail."
)
LEAK = Finding(
    kind="leakage",
    sentence="4 test images are in the training data as well.",
    items=("test/a/1.jpg", "test/a/2.jpg", "test/b/1.jpg", "test/b/2.jpg"),
)
ISSUE = issue("a/7.jpg", "a", "b", is_issue=False)
FOUND = Checked(
    verdict=Verdict(
        kind="inconclusive",
        sentence="The labels can be learnt from this start.",
        evidence=(SIGNAL, TAIL),
    ),
    data=DataCounts(
        train=180, test=20, classes=3, unreadable=0, duplicates=0, leaks=4, label_issues=0
    ),
    findings=(LEAK,),
    label_issues=issues(ISSUE),
    seconds={"total": 1.0},
    path=None,
)


def test_a_verdict_with_its_reasons_and_problems():
    assert (
        check_text(FOUND, ["my photos", "--label", "kind"])
        == """\
Verdict  The labels can be learnt from this start.

Because  signal: The network's best guess is right 83 % of the time; with
         shuffled labels it is right 29 to 39 %.
         tail gain: Not measured: no tail.

Found    4 test images are in the training data as well. (test/a/1.jpg,
         test/a/2.jpg, test/b/1.jpg and 1 more)

Labels   No label issues found.

Next     warmstart check 'my photos' --label kind --out problems
         warmstart fit 'my photos' --label kind"""
    )


def test_what_to_type_has_a_reason_where_there_is_room():
    lines = check_text(FOUND, ["photos"]).splitlines()
    assert lines[-2:] == [
        "Next     warmstart check photos --out problems  # writes the lists down",
        "         warmstart fit photos                   # learn from it",
    ]


def test_files_are_named_and_the_list_comes_back():
    lines = check_text(replace(FOUND, path="runs/my problems"), ["photos"]).splitlines()
    assert "Files    runs/my problems" in lines
    command = "warmstart fit photos --relabel 'runs/my problems'/label_issues.csv"
    assert any(command in line for line in lines)
    assert not any("--out" in line for line in lines)


def test_clean_data_is_called_clean_and_nothing_is_to_be_written_down():
    text = check_text(replace(FOUND, findings=(), label_issues=issues()), ["photos"])
    assert "Found    No problem in the data." in text
    assert "--out" not in text
    assert text.endswith("Next     warmstart fit photos  # learn from it")


def test_without_a_signal_the_figures_come_first_and_nothing_is_to_be_fitted():
    verdict = replace(FOUND.verdict, kind="no-signal", sentence="No signal found.")
    text = check_text(replace(FOUND, verdict=verdict), ["photos"])
    assert text.startswith("No signal found")
    assert "warmstart fit" not in text
    assert "Traceback" not in text


def test_one_or_no_name_is_not_more():
    one = replace(LEAK, items=("test/a/1.jpg",))
    none = replace(LEAK, items=())
    text = check_text(replace(FOUND, findings=(one, none)), ["photos"])
    assert "(test/a/1.jpg)" in text
    assert "more" not in text.partition("Found")[2].partition("Next")[0]


def test_long_names_and_control_characters_do_not_break_the_lines():
    odd = Finding(kind="near-duplicate", sentence="1 image.", items=("x\x1b[2J/" + "y" * 100,))
    text = check_text(replace(FOUND, findings=(odd,)), ["d" * 120])
    assert "\x1b" not in text
    assert "x?[2J/" in text
    for line in text.splitlines():
        assert len(line) <= 80 or "y" * 60 in line or "d" * 120 in line
    commands = [line for line in text.splitlines() if "warmstart" in line]
    assert not any("#" in line for line in commands)


def test_a_count_of_label_issues_is_said_once_as_a_finding():
    told = issues(issue("a/7.jpg", "a", "b"), sentence="1 label issue among 180 labels.")
    finding = Finding(kind="label-issue", sentence=told.sentence, items=("a/7.jpg: a",))
    text = check_text(replace(FOUND, label_issues=told, findings=(finding,)), ["photos"])
    assert text.count("1 label issue among 180 labels.") == 1


def test_why_no_number_is_stated_stands_in_the_terminal():
    said = "The model disagrees with 119 of 384 labels; it is itself wrong about 4 times in 10."
    told = issues(ISSUE, count=None, why="weak-model", sentence=said)
    text = check_text(replace(FOUND, label_issues=told), ["photos"])
    assert said in " ".join(text.split())


def test_outcomes_of_a_table_are_not_to_be_corrected():
    told = issues(ISSUE, count=None, why="outcome", sentence="A target is an outcome.")
    text = check_text(replace(FOUND, label_issues=told, path="out"), ["rows.csv"])
    assert "--relabel" not in text
