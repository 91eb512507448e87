"""The result of fit in words."""

from dataclasses import replace
from pathlib import Path

import pytest

from reports import gain, summary
from warmstart.records.findings import FINDINGS, Finding
from warmstart.records.summary import (
    ClassScore,
    Estimate,
    Evidence,
    Readiness,
    ShippedCandidate,
    Verdict,
)
from warmstart.terminal.result_text import result_text

RUN = Path("runs/clothing")
ESTIMATE = Estimate(metric="accuracy", value=0.86, low=0.82, high=0.89, n=300, method="nested-cv")
PROBE = replace(ESTIMATE, value=0.8, low=0.75, high=0.84)
SHIRT = ClassScore(
    label="shirt",
    n=30,
    recall=0.6,
    low=0.42,
    high=0.75,
    precision=0.7,
    answers=26,
    confused_with="longsleeve",
    n_confused=9,
)
TRIED = "Fine-tuning was tried and not kept: +0.2 points of accuracy against the linear probe."
FITTED = summary(
    verdict=Verdict(kind="linear-probe", sentence=TRIED),
    shipped=ShippedCandidate(strategy="head", why="a linear probe, all 18 blocks frozen"),
    readiness=Readiness(level="review", reasons=("1 in 7 predictions is wrong",)),
    estimate=ESTIMATE,
    linear_probe=ESTIMATE,
    fine_tuning_gain=gain(0.06, 0.02, 0.1),
    findings=(Finding(kind="unreadable", sentence="3 images could not be read."),),
    seconds={"total": 60.0},
    weakest=SHIRT,
)
SIGNAL = Evidence(
    name="permutation_test",
    value=0.35,
    low=0.29,
    high=0.39,
    n=180,
    meaning="…",
    details={"mde": 0.12},
)
NO_SIGNAL = summary(
    verdict=Verdict(kind="no-signal", sentence="No signal found in 180.", evidence=(SIGNAL,)),
    shipped=ShippedCandidate(strategy="none", why="no signal was found"),
    readiness=Readiness(level="not-ready", reasons=("no signal",)),
    estimate=None,
    linear_probe=None,
    test=None,
    findings=(),
    seconds={"total": 60.0},
)


def test_a_result_reads_from_the_number_to_the_next_command():
    assert (
        result_text(FITTED, RUN, "photo.jpg")
        == """\
Usable with review: 1 in 7 predictions is wrong.

Accuracy  86 % (95 % CI 82–89), cross-validated;
          78 % (95 % CI 72–84) on the test set.

Verdict   Fine-tuning was tried and not kept: +0.2 points of accuracy against
          the linear probe.
Weakest   shirt: recall 60 % (95 % CI 42–75), most often taken for longsleeve.
Findings  3 images could not be read (WS101).
Model     A linear probe, all 18 blocks frozen · 60 s in all

Next      warmstart report runs/clothing --open      # see its mistakes
          warmstart predict runs/clothing photo.jpg
          warmstart evaluate runs/clothing more/     # test it on other images
          warmstart serve runs/clothing              # try it in the browser"""
    )


def test_serve_is_offered_for_the_kinds_it_supports():
    for kind in ("text", "table"):
        text = result_text(replace(FITTED, data=replace(FITTED.data, kind=kind)), RUN, None)
        assert f"warmstart predict {RUN}" in text
        assert "warmstart serve" in text
        assert "photos/" not in text
    text = result_text(replace(FITTED, data=replace(FITTED.data, kind="tensor")), RUN, None)
    assert "warmstart serve" not in text


def test_no_signal_gives_the_evidence_and_what_might_help():
    assert (
        result_text(NO_SIGNAL, Path("runs/survey"), "x.jpg")
        == """\
Not ready: no signal.

No signal found. With 180 pictures in 3 classes the best model is right 35 % of
the time; with shuffled labels it is right 29–39 %. An effect of 12 points or
more would have been detected. Training longer will not help.
What might help: check how the labels were made, or use pictures in which a
person can tell the classes apart.

Model     Nothing was shipped: no signal was found · 60 s in all

Next      warmstart report runs/survey --open  # see its mistakes"""
    )


def test_no_signal_with_a_strategy_of_the_users_ships_and_says_both():
    chosen = replace(NO_SIGNAL, shipped=FITTED.shipped, estimate=ESTIMATE)
    text = result_text(chosen, RUN, "photo.jpg")
    assert text.startswith("Not ready: ")
    assert text.split("\n\n")[1].startswith("No signal found. ")
    assert "Accuracy  86 %" in text
    assert "Model     A linear probe, all 18 blocks frozen" in text


def test_no_signal_without_numbers_falls_back_to_the_verdict():
    bare = replace(NO_SIGNAL, verdict=replace(NO_SIGNAL.verdict, evidence=()))
    assert "\n\nNo signal found in 180.\n" in result_text(bare, RUN, None)


def test_the_linear_probe_stands_below_what_ships_where_that_was_fine_tuned():
    shipped = replace(FITTED.shipped, strategy="last:4")
    tuned = replace(FITTED, shipped=shipped, linear_probe=PROBE)
    assert "\n          linear probe 80 % (95 % CI 75–84).\n" in result_text(tuned, RUN, None)
    chosen = replace(tuned, fine_tuning_gain=None)  # nothing was compared with it
    for other in (FITTED, chosen):  # where it ships: one number, once
        assert "linear probe 8" not in result_text(other, RUN, None)


def test_a_holdout_and_the_own_head_of_a_base_model_are_called_that():
    holdout = replace(FITTED, own_head=PROBE, estimate=replace(ESTIMATE, method="holdout"))
    text = " ".join(result_text(holdout, RUN, None).split())
    assert "86 % (95 % CI 82–89) on 300 held-out examples;" in text
    assert "own head, before a new one was fitted: 80 % (95 % CI 75–84)." in text
    assert "own head" not in result_text(FITTED, RUN, None)


def test_without_an_image_the_text_says_how_to_fit_your_own():
    text = result_text(replace(FITTED, test=None), RUN, None)
    assert "86 % (95 % CI 82–89), cross-validated.\n" in text
    assert "warmstart predict runs/clothing photo.jpg" in text
    assert "warmstart fit photos/" in text


def test_commands_are_quoted_for_the_shell():
    text = result_text(FITTED, Path("runs/my photos"), "a b.jpg")
    assert "warmstart predict 'runs/my photos' 'a b.jpg'" in text


@pytest.mark.parametrize("kind", [name for name, kind in FINDINGS.items() if not kind.is_folded])
def test_grave_findings_are_always_listed(kind):
    grave = tuple(Finding(kind=kind, sentence=f"grave {i}") for i in range(6))
    others = tuple(Finding(kind="unreadable", sentence=f"finding {i}") for i in range(3))
    text = result_text(replace(FITTED, findings=(*others, *grave)), RUN, None)
    assert all(f"Grave {i} " in text for i in range(6))
    assert text.index("Grave 5 ") < text.index("3 more in runs/clothing/report.html")
    assert "Finding 0 " not in text
    some = result_text(replace(FITTED, findings=(*others, *others, grave[0])), RUN, None)
    assert some.count("Finding ") == 4
    assert "2 more in" in some


@pytest.mark.parametrize("summary", [FITTED, NO_SIGNAL])
@pytest.mark.parametrize("sample", [None, "photo.jpg"])
def test_a_result_keeps_to_80_columns(summary, sample):
    text = result_text(summary, RUN, sample)
    assert max(map(len, text.splitlines())) <= 80
    assert all(line == line.rstrip() for line in text.splitlines())


def test_unreadable_files_are_listed_with_the_reason():
    items = ("a.jpg: is cut off", "b.jpg: is empty", "c.jpg: is text", "d.jpg: is text")
    finding = Finding(kind="unreadable", sentence="4 images could not be read.", items=items)
    text = " ".join(result_text(replace(FITTED, findings=(finding,)), RUN, None).split())
    assert "(WS101): a.jpg: is cut off; b.jpg: is empty; c.jpg: is text; 1 more in the" in text
