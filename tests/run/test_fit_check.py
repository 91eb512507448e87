"""`check` from data to verdict over tiny networks: what it says, what it writes, how it exits."""

from __future__ import annotations

import csv
import json
import math
import os
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from extraction import table
from hue_images import fill
from tiny import ARCH, KINDS, PREP, bytes_of, network, weights
from warmstart.cli.main import main
from warmstart.errors import DataError, RunFolderError, UsageError
from warmstart.events import drain, follow
from warmstart.features import extraction
from warmstart.features.extraction import extract
from warmstart.records.data import DataRecord
from warmstart.records.run_folder import read_json, to_plain
from warmstart.records.summary import Inspection
from warmstart.request import Request
from warmstart.run.fit import check

NAMES = [
    "permutation_test",
    "depth",
    "learning_curve",
    "transfer_gain",
    "domain_gap",
    "preprocessing",
    "label_noise_ceiling",
    "fine_tuning_gain",
]
CLOSE = {"transfer_gain", "domain_gap", "preprocessing"}  # the network is run again for them
FILES = {
    "data.json",
    "inspection.json",
    "label_issues.csv",
    "off_topic.csv",
    "progress.jsonl",
    "DONE",
}


def results(folder):
    """The files without the clock's."""
    return {name: text for name, text in bytes_of(folder).items() if name != "progress.jsonl"}


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def ask(data, kind="convolutions", **options):
    return drain(check(Request(data=data, base=network(kind), preprocessing=PREP, **options)))


def names(result):
    return [evidence.name for evidence in result.verdict.evidence]


def noise(root, n, classes=("a", "b"), size=32):
    """Pictures that say nothing about their classes."""
    rng = np.random.default_rng(0)
    for number in range(n):
        path = root / classes[number % len(classes)] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8)).save(path)
    return root


# ---- evidence ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_all_evidence_is_gathered_and_is_plain_numbers(kind, pictures):
    result = ask(pictures, kind)
    assert names(result) == NAMES
    for evidence in result.verdict.evidence:
        numbers = [evidence.value, evidence.low, evidence.high, *evidence.details.values()]
        assert all(math.isfinite(x) for x in numbers if isinstance(x, (int, float)))
        assert evidence.meaning.endswith(".")
        if evidence.value is None:
            assert evidence.low is evidence.high is None
        elif evidence.name != "permutation_test":  # whose interval is that of shuffled labels
            assert evidence.low <= evidence.value <= evidence.high
    json.dumps(to_plain(result), allow_nan=False)
    assert (result.data.train, result.data.classes, result.path) == (36, 3, None)
    assert result.seconds["total"] > 0


def test_fast_does_not_run_the_network_again(pictures):
    result = ask(pictures, budget="fast")
    assert names(result) == [name for name in NAMES if name not in CLOSE]


def test_without_a_signal_there_is_nothing_to_know(tmp_path):
    result = ask(noise(tmp_path / "noise", 80))
    assert result.verdict.kind == "no-signal"
    assert names(result) == [name for name in NAMES if name not in CLOSE]


@pytest.mark.parametrize("people", [3, 4])
def test_a_few_large_groups_are_measured_as_well_as_they_can_be(tmp_path, people):
    """Whole groups fill every draw of a few images; numbers must stay numbers."""
    root = fill(tmp_path / "photos", {"blue": 100, "red": 100})
    files = sorted(path.relative_to(root) for path in root.rglob("*.png"))
    source = table(root, [(f, f.parent, n % people) for n, f in enumerate(files)])
    result = ask(source, "layers", label="label", group="person", out=tmp_path / "out")
    assert "transfer_gain" in names(result)
    json.dumps(to_plain(result), allow_nan=False)
    assert (
        read_json(tmp_path / "out" / "inspection.json", Inspection).label_issues
        == result.label_issues
    )


def test_many_classes_of_two_are_measured_as_well_as_they_can_be(tmp_path):
    root = fill(tmp_path / "photos", {f"{n:02d}": 2 for n in range(25)})
    json.dumps(to_plain(ask(root, "layers")), allow_nan=False)


# ---- files ---------------------------------------------------------------------------------


def test_nothing_is_written_unless_it_is_requested(pictures, tmp_path):
    before = bytes_of(pictures)
    assert ask(pictures).path is None
    assert {path.name for path in tmp_path.iterdir()} == {"pictures", "cache"}
    assert bytes_of(pictures) == before


def test_files_where_they_are_requested(pictures, tmp_path):
    before = bytes_of(pictures)
    result = ask(pictures, out=tmp_path / "problems")
    assert result.path == str(tmp_path / "problems")
    assert bytes_of(tmp_path / "problems").keys() == FILES
    assert bytes_of(pictures) == before
    inspection = read_json(tmp_path / "problems" / "inspection.json", Inspection)
    assert inspection.evidence == result.verdict.evidence
    record = read_json(tmp_path / "problems" / "data.json", DataRecord)
    assert (*record.problems, *inspection.findings) == result.findings


def test_fix_makes_a_folder_of_its_own_with_the_clean_index(pictures, tmp_path):
    (pictures / "blue" / "copy.png").write_bytes((pictures / "blue" / "000.png").read_bytes())
    before = bytes_of(pictures)
    result = ask(pictures, fix=True)
    assert result.path == "runs/pictures-check"
    assert bytes_of(tmp_path / result.path).keys() == FILES | {"clean.csv"}
    assert not (tmp_path / "runs" / "latest").exists()
    assert bytes_of(pictures) == before
    assert result.data.train == 36
    again = ask(pictures, relabel=tmp_path / result.path / "clean.csv")
    assert (again.data.train, again.data.near_duplicates) == (36, 0)


def test_the_same_seed_gives_the_same_bytes(pictures, tmp_path, monkeypatch):
    for name in ("a", "b"):
        monkeypatch.setenv("WARMSTART_CACHE", str(tmp_path / f"cache-{name}"))
        ask(pictures, out=tmp_path / name, seed=3)
    assert results(tmp_path / "a") == results(tmp_path / "b")


def test_a_stored_extraction_changes_nothing(pictures, tmp_path):
    one, two = (ask(pictures, out=tmp_path / name) for name in ("a", "b"))
    assert results(tmp_path / "a") == results(tmp_path / "b")
    assert one.verdict == two.verdict


def test_a_check_that_was_stopped_is_taken_up_by_the_same_command(pictures, tmp_path):
    request = Request(
        data=pictures, base=network(), preprocessing=PREP, out=tmp_path / "out", fix=True
    )
    steps = check(request)
    for event in steps:
        if event.stage == "checks":
            break
    steps.close()
    assert (tmp_path / "out" / "INTERRUPTED").exists()
    ask(pictures, out=tmp_path / "out", fix=True)
    assert (tmp_path / "out" / "DONE").exists()
    assert not (tmp_path / "out" / "INTERRUPTED").exists()


def test_the_list_of_label_issues_comes_back(tmp_path):
    root = fill(tmp_path / "photos", {"blue": 40, "green": 40, "red": 40})
    for number in range(5):
        (root / "blue" / f"00{number}.png").rename(root / "red" / f"x{number}.png")
    first = ask(root, out=tmp_path / "first")
    path = tmp_path / "first" / "label_issues.csv"
    with open(path, newline="") as file:
        rows = [*csv.DictReader(file)]
    assert {row["path"] for row in rows} >= {f"red/x{number}.png" for number in range(5)}
    untouched = ask(root, relabel=path)
    assert untouched.verdict == first.verdict
    assert untouched.label_issues == first.label_issues
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows({**row, "label": row["suggested"]} for row in rows)
    corrected = ask(root, relabel=path)
    assert corrected.label_issues.disagreements < first.label_issues.disagreements
    assert not any(one.id.startswith("red/x") for one in corrected.label_issues.ranked)


def test_outcomes_of_a_table_are_ranked_and_never_counted(tmp_path):
    """With 15 of 300 turned round, a label issue each if the table were pictures."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    y = np.array(["ill", "well"])[(x[:, 0] + 0.1 * rng.normal(size=300) > 0).astype(int)]
    turned = np.argsort(-np.abs(x[:, 0]))[:15]
    y[turned] = np.where(y[turned] == "ill", "well", "ill")
    lines = [
        "a,b,c,label",
        *(f"{a:.4f},{b:.4f},{c:.4f},{z}" for (a, b, c), z in zip(x, y, strict=True)),
    ]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    result = drain(check(Request(data=tmp_path / "rows.csv", budget="fast")))
    told = result.label_issues
    assert result.data.label_issues is None
    assert result.off_topic is None
    assert not [f for f in result.findings if f.kind == "label-issue"]
    assert (told.count, told.rate, told.why) == (None, None, "outcome")
    assert len(told.ranked) >= 15
    assert told.sentence.startswith("A table's target is an outcome, not a label to correct")


# ---- events and errors ---------------------------------------------------------------------


def test_events_tell_the_stages(pictures):
    events = []
    request = Request(data=pictures, base=network(), preprocessing=PREP)
    follow(check(request), events.append)
    stages = [event.stage for event in events]
    assert stages == sorted(stages, key=["read", "features", "checks"].index)
    notes = [event.values["title"] for event in events if event.kind == "note"]
    assert notes[:2] == ["Data", "Base"]
    ends = [(e.stage, e.kind) for e in events if e.kind in ("begin", "end")]
    assert ends[-2:] == [("checks", "begin"), ("checks", "end")]


def test_bad_requests_are_errors_and_leave_nothing(pictures, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    with pytest.raises(RunFolderError, match="full"):
        ask(pictures, out=tmp_path / "full")
    with pytest.raises(UsageError, match="--budget quick"):
        ask(pictures, budget="quick")
    with pytest.raises(DataError, match="does not exist"):
        ask(tmp_path / "nowhere", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- the command ---------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path):
    """A small real design with random weights, as words of a command."""
    folder = tmp_path / "base"
    folder.mkdir()
    return ["--base", str(weights(folder)), "--arch", ARCH]


def test_random_labels_exit_with_3(tmp_path, base, capsys):
    noise(tmp_path / "noise", 90, size=8)
    assert main(["check", "noise", *base, "--budget", "fast", "--json"]) == 3
    out, err = capsys.readouterr()
    printed = json.loads(out)
    assert printed.keys() >= {"verdict", "data", "findings"}
    assert printed["verdict"]["kind"] == "no-signal"
    assert printed["data"]["train"] == 90
    assert "Features" in err
    assert main(["check", "noise", *base, "--budget", "fast", "-q"]) == 3
    out, err = capsys.readouterr()
    assert "No signal found" in out
    assert err == ""
    assert not (tmp_path / "runs").exists()


def test_a_signal_exits_with_0_and_names_the_next_command(pictures, base, capsys):
    assert main(["check", "pictures", *base, "--budget", "fast", "--out", "problems"]) == 0
    out, _ = capsys.readouterr()
    assert max(map(len, out.splitlines()[:-4])) <= 80
    assert "warmstart fit pictures" in out
    assert (pictures.parent / "problems" / "DONE").exists()


def test_a_misuse_exits_with_2(pictures, capsys):
    assert main(["check", "nowhere"]) == 2
    assert main(["check", "pictures", "--out", "pictures"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 2


# ---- a damaged cache -----------------------------------------------------------------------


def spoil(path, kind):
    """Damage one file of the cache."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    if kind == "flip":
        content[middle] ^= 8
    elif kind == "zeros":
        content = bytearray(len(content))
    elif kind == "noise":
        content = bytearray(np.random.default_rng(0).bytes(len(content)))
    elif kind == "truncation":
        content = content[:middle]
    if kind in ("folder", "gone"):
        path.unlink()
        if kind == "folder":
            (path / "inside").mkdir(parents=True)
        return
    path.write_bytes(content)
    later = path.stat().st_mtime_ns + 10**9  # the clock of a file system ticks every few ms
    os.utime(path, ns=(later, later))


@pytest.mark.parametrize("kind", ["flip", "zeros", "noise", "truncation", "folder", "gone"])
def test_a_damaged_cache_heals_and_changes_nothing(tmp_path, pictures, kind):
    first = ask(pictures)
    for suffix in ("rows", "index", "json"):
        files = sorted((tmp_path / "cache").glob(f"*.{suffix}"))
        assert files
        for path in files:
            spoil(path, kind)
        again = ask(pictures)
        assert replace(again, seconds={}) == replace(first, seconds={})


def test_rows_that_are_damaged_while_a_extraction_is_taken_are_passed_again(tmp_path, monkeypatch):
    data = fill(tmp_path / "data", {"blue": 12, "green": 12})
    first, spoilt = ask(data), []

    def extract_then_spoil(*args):
        features = yield from extract(*args)
        if not spoilt:
            spoilt.extend(sorted((tmp_path / "other").glob("*.rows")))
            for path in spoilt:
                spoil(path, "zeros")
        return features

    monkeypatch.setenv("WARMSTART_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(extraction, "extract", extract_then_spoil)
    again = ask(data)
    assert spoilt
    assert replace(again, seconds={}) == replace(first, seconds={})


def test_a_cache_that_keeps_losing_rows_names_the_cure(tmp_path, monkeypatch):
    data = fill(tmp_path / "data", {"blue": 12, "green": 12})

    def extract_and_lose(*args):
        features = yield from extract(*args)
        for path in (tmp_path / "cache").glob("*.rows"):
            spoil(path, "zeros")
        return features

    monkeypatch.setattr(extraction, "extract", extract_and_lose)
    with pytest.raises(UsageError, match="loses what is written to it; set WARMSTART_CACHE"):
        ask(data)
