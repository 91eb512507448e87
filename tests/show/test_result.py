"""The result of fit in words."""

from dataclasses import replace
from pathlib import Path

import pytest

from warmstart.records import (
    DataCounts,
    Estimate,
    Evidence,
    Finding,
    FrozenProof,
    Scores,
    Shipped,
    StartCounts,
    Summary,
    Verdict,
)
from warmstart.show import result, result_text

RUN = Path("runs/clothing")
ESTIMATE = Estimate(metric="accuracy", value=0.86, low=0.82, high=0.89, n=300, method="nested-cv")
TEST = Scores(
    n=200, accuracy=0.84, low=0.78, high=0.88, balanced_accuracy=0.83,
    macro_f1=0.82, log_loss=0.5, ece=0.04,
)  # fmt: skip
FITTED = Summary(
    task="classify",
    verdict=Verdict(
        kind="head",
        sentence="A new output on the frozen network is enough; a gain of up to 2 points from "
        "tuning deeper cannot be excluded.",
    ),
    shipped=Shipped(strategy="head", why="a linear output, all 18 layers frozen: your choice"),
    estimate=ESTIMATE,
    test=TEST,
    data=DataCounts(
        train=300, test=200, classes=10, unreadable=3, duplicates=0, leaks=0, label_issues=0
    ),
    start=StartCounts(name="lite0", sha256="00", parameters=4_652_008),
    frozen=FrozenProof(parameters=198, buffers=34, identical=True),
    guards=(),
    findings=(Finding(kind="unreadable", sentence="3 images could not be read."),),
    seconds={"total": 60.0},
    peak_rss_mb=900.0,
)
SIGNAL = Evidence(
    name="signal", value=0.35, low=0.29, high=0.39, n=180, meaning="…", details={"mde": 0.12}
)
NOTHING = replace(
    FITTED,
    verdict=Verdict(kind="no-signal", sentence="No signal found in 180.", evidence=(SIGNAL,)),
    shipped=Shipped(strategy="none", why="no signal was found"),
    estimate=None,
    test=None,
    data=replace(FITTED.data, train=180, classes=3),
    findings=(),
)


def test_a_result_reads_from_the_number_to_the_next_command():
    assert (
        result_text(FITTED, RUN, "photo.jpg")
        == """\
Accuracy 86 % (82 to 89), estimated on examples it had not seen;
         84 % (78 to 88) on your test part.

Verdict  A new output on the frozen network is enough; a gain of up to 2 points
         from tuning deeper cannot be excluded.
Decided  A linear output, all 18 layers frozen: your choice.
Found    3 images could not be read.

Model    runs/clothing/model
Report   runs/clothing/report.html
Card     runs/clothing/README.md
Next     warmstart predict runs/clothing photo.jpg  # name the class of an image
         warmstart evaluate runs/clothing more/     # measure it on other images
         warmstart serve runs/clothing              # try it in the browser"""
    )


def test_texts_and_rows_are_offered_what_answers_for_them():
    for kind in ("text", "table"):
        told = result_text(replace(FITTED, data=replace(FITTED.data, kind=kind)), RUN, None)
        assert f"warmstart predict {RUN}" in told
        assert "warmstart serve" in told
        assert "photos/" not in told
    told = result_text(replace(FITTED, data=replace(FITTED.data, kind="tensor")), RUN, None)
    assert "warmstart serve" not in told


def test_no_signal_says_what_was_seen_and_what_might_help():
    assert (
        result_text(NOTHING, Path("runs/survey"), "x.jpg")
        == """\
No signal found. With 180 pictures in 3 classes the network's best guess is
right 35 % of the time; with shuffled labels it is right 29 to 39 %. An effect
of 12 points or more would have been seen. Training longer will not help.
What might help: check how the labels were made, or use pictures in which a
person can tell the classes apart.

Decided  Nothing was shipped: no signal was found.

Report   runs/survey/report.html
Card     runs/survey/README.md"""
    )


def test_no_signal_with_a_strategy_of_the_users_ships_and_says_both():
    text = result_text(
        replace(NOTHING, shipped=FITTED.shipped, estimate=ESTIMATE), RUN, "photo.jpg"
    )
    assert text.startswith("No signal found. ")
    assert "Accuracy 86 %" in text
    assert "Model    runs/clothing/model" in text


def test_no_signal_without_numbers_falls_back_to_the_verdict():
    bare = replace(NOTHING, verdict=replace(NOTHING.verdict, evidence=()))
    assert result_text(bare, RUN, None).startswith("No signal found in 180.\n")


def test_a_holdout_is_called_what_it_is():
    text = result_text(replace(FITTED, estimate=replace(ESTIMATE, method="holdout")), RUN, None)
    assert "86 % (82 to 89), measured on 300 examples held out;" in text


def test_what_training_began_from_is_told_beside_what_it_reached():
    before = replace(ESTIMATE, value=0.8, low=0.75, high=0.84)
    tuned = replace(FITTED, shipped=replace(FITTED.shipped, strategy="last:4"), step_zero=before)
    text = " ".join(result_text(tuned, RUN, None).split())
    assert "before any layer moved, the new output alone: 80 % (75 to 84)." in text
    assert "before any layer moved" not in result_text(FITTED, RUN, None)


def test_without_an_image_the_text_says_how_to_fit_ones_own():
    text = result_text(replace(FITTED, test=None), RUN, None)
    assert "estimated on examples it had not seen.\n" in text
    assert "warmstart predict runs/clothing photo.jpg" in text
    assert "warmstart fit photos/" in text


def test_commands_are_quoted_for_the_shell():
    text = result_text(FITTED, Path("runs/my photos"), "a b.jpg")
    assert "warmstart predict 'runs/my photos' 'a b.jpg'" in text


def test_only_the_first_findings_are_listed():
    many = tuple(Finding(kind="leak", sentence=f"finding {i}") for i in range(9))
    text = result_text(replace(FITTED, findings=many), RUN, None)
    assert "Finding 4." in text
    assert "Finding 5." not in text
    assert "4 more in runs/clothing/report.html" in text


@pytest.mark.parametrize("summary", [FITTED, NOTHING])
@pytest.mark.parametrize("sample", [None, "photo.jpg"])
def test_a_result_keeps_to_80_columns(summary, sample):
    text = result_text(summary, RUN, sample)
    assert max(map(len, text.splitlines())) <= 80
    assert all(line == line.rstrip() for line in text.splitlines())


def test_what_could_not_be_read_is_named_with_why():
    items = ("a.jpg: is cut off", "b.jpg: is empty", "c.jpg: is text", "d.jpg: is text")
    found = Finding(kind="unreadable", sentence="4 images could not be read.", items=items)
    assert result._finding(found) == (
        "4 images could not be read: a.jpg: is cut off; b.jpg: is empty; c.jpg: is text; "
        "1 more in the report."
    )
