"""report.html: whole HTML from the folder's files, nothing that runs, only pictures of the data."""

import base64
import io
import json
import re
import shutil
from dataclasses import fields, replace
from hashlib import sha256
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from hue_images import fill
from issues import issues
from reports import NASTY, cases, facts, gain, guard, ledger, summary
from test_errors_raised import bomb
from tiny import fit
from warmstart.cli.main import main
from warmstart.errors import DataError, RunFolderError
from warmstart.records.data import DataRecord, Example
from warmstart.records.inputs import Preprocessing
from warmstart.records.network import Ledger
from warmstart.records.run_folder import RECORDS
from warmstart.records.summary import Inspection, ShippedCandidate
from warmstart.reporting import report as reporting_report
from warmstart.reporting.facts import ReportFacts
from warmstart.reporting.report import NAME, SIDE, TINY, data_uri, page, report, thumbnails

VOID = {"meta", "img", "br", "wbr", "link", "input"}
CASES = cases()


class Reader(HTMLParser):
    """Checks that elements are closed in their order; collects tags, ids and texts."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.ids, self.attributes, self.texts = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_page_is_whole_html_that_loads_and_runs_nothing(case):
    text = page(case)
    reader = Reader(text)
    assert len(reader.ids) == len(set(reader.ids))
    assert reader.tags.count("h1") == reader.tags.count("main") == 1
    levels = [int(tag[1]) for tag in reader.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert not {"script", "iframe", "object", "embed", "link", "form", "base"} & set(reader.tags)
    alts = [value for tag, name, value in reader.attributes if (tag, name) == ("img", "alt")]
    assert all(alts)
    assert len(alts) == reader.tags.count("img")
    for tag, name, value in reader.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "srcset", "data", "action"):
            assert value.startswith("data:image/") or value.removeprefix("#") in reader.ids, value
        if name == "aria-labelledby":
            assert set(value.split()) <= set(reader.ids)
    assert not re.search(r"url\(|@import|https?:", text)
    assert "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:" in text
    assert page(replace(case)) == text


def test_what_a_user_named_is_text():
    reader = Reader(page(CASES["nasty"]))
    assert any(NASTY in text for text in reader.texts)
    assert not {x for x in "".join(reader.texts) if not x.isprintable()} - {"\n", "\xa0"}
    nasty = facts(place=NASTY, title=NASTY, in_words=NASTY, fates=(NASTY,))
    repeat = replace(nasty.repeat, command=NASTY, data=NASTY, rows=((NASTY, NASTY),))
    assert "script" not in Reader(page(replace(nasty, repeat=repeat))).tags


@pytest.mark.parametrize("name", [f.name for f in fields(ReportFacts)][4:])
def test_what_an_older_run_lacks_is_left_out(name):
    field = next(f for f in fields(ReportFacts) if f.name == name)
    empty = {} if name in ("thumbs", "excerpts") else field.default
    Reader(page(facts(**{name: empty})))


def test_sections_come_in_the_order_of_the_work():
    titles = re.findall(r'<section id="(\w+)"', page(facts()))
    assert titles == ["data", "base", "verdict", "plan", "training", "proof", "cost"]


def test_eighty_classes_stay_legible_and_small():
    text = page(CASES["many classes"])
    for words in ("the 12 classes with the most mistakes", "All 80 classes at once", "all others"):
        assert words in text
    assert len(text.encode()) < 400_000


def test_a_perfect_run_says_so():
    rows = tuple(replace(s, label=s.target) for s in facts().answers)
    own = facts().classes
    classes = tuple(replace(c, recall=1.0, confused_with=None, n_confused=0) for c in own)
    inspection = Inspection(evidence=(), label_issues=issues())
    text = page(facts(answers=rows, classes=classes, inspection=inspection))
    assert "It made no mistake on held-out examples." in text
    assert "Add images of" not in text


GAIN = gain(0.031, 0.004, 0.058)


@pytest.mark.parametrize(("strategy", "row"), [("last:1", "the model"), ("head", "fine-tuned")])
def test_what_fine_tuning_changed_stands_beside_the_curves(strategy, row):
    shipped = ShippedCandidate(strategy=strategy, why="…")
    text = page(facts(summary=summary(fine_tuning_gain=GAIN, shipped=shipped)))
    assert f"; {row} against it: +3 points (95\u00a0% CI +0.4 to +6)." in text
    assert "On the same folds" not in page(facts())  # nothing was compared


def test_a_discarded_training_is_called_that():
    words = "the linear probe ships, and in the model every block is frozen"
    text = page(facts())  # a plan that trains, and a head that ships
    assert f"last:1 was tried and not kept: {words}" in text
    assert "Training was tried and not kept: these curves" in text
    stopped = page(facts(summary=summary(guards=(guard(),))))
    assert f"last:1 was tried and given up: {words}" in stopped
    assert "Training was given up: these curves" in stopped
    tuned = summary(shipped=ShippedCandidate(strategy="last:1", why="…"), fine_tuning_gain=GAIN)
    assert words not in page(facts(summary=tuned))


KEPT, TUNED, NEW, DROPPED = ledger().rows
RESHAPED = replace(KEPT, fate="reshaped")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ((KEPT,), "None is possible: no block"),
        ((KEPT, TUNED, NEW), "no forgetting was seen"),
        ((KEPT, NEW), "were not changed; the others are new"),
        ((RESHAPED, NEW), "No layer was trained. The input was adapted"),
        ((NEW, DROPPED), "there was no base model to forget"),
    ],
)
def test_forgetting_is_reported(rows, words):
    assert words in page(facts(ledger=Ledger(rows=rows)))
    seen = facts(summary=summary(guards=(guard(),)), events=(), ledger=Ledger(rows=rows))
    assert "Kept: it has the better validation loss" in page(seen)


def test_the_same_model_is_not_guaranteed_where_minutes_cut_the_plan():
    assert "byte for byte" in page(facts())
    timed = page(facts(repeat=replace(facts().repeat, is_timed=True)))
    assert "byte for byte" not in timed
    assert "--plan runs/clothing/plan.toml follows this one" in timed


# ---- From a run folder.


def text_of(run):
    return (run / NAME).read_text("utf-8")


def headline(text):
    (line,) = re.findall("<h1>([^<]+)</h1>", text)
    return line


def pictures_in(text):
    return re.findall(r'<img src="data:image/(?:png|jpeg);base64,[^"]+" alt="Image ([^"]+)"', text)


@pytest.fixture(scope="module")
def doubtful(tmp_path_factory):
    """A run on 120 images in three classes, some of them under a wrong label."""
    root = tmp_path_factory.mktemp("doubtful")
    data = fill(root / "photos", {"blue": 40, "green": 40, "red": 40})
    for i in range(6):
        (data / "blue" / f"{i:03}.png").rename(data / "red" / f"wrong{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_CACHE", str(root / "cache"))
        patch.chdir(root)
        return fit("photos", out=root / "run").path, data


@pytest.fixture
def copied(doubtful, tmp_path):
    """A copy of that run, to be changed."""
    return shutil.copytree(doubtful[0], tmp_path / "copied")


def test_fit_writes_it_and_the_verb_writes_the_same_bytes(finished, own_run, doubtful, copied):
    assert NAME in RECORDS  # what a failed run has left of it may be removed
    (own_run / NAME).unlink()
    assert report(own_run) == own_run / NAME
    assert (own_run / NAME).read_bytes() == (finished.path / NAME).read_bytes()
    report(copied)  # from another folder than the one that the data were named in
    assert text_of(copied) == text_of(doubtful[0])


def test_pictures_that_changed_or_went_are_not_shown(doubtful, copied, tmp_path, monkeypatch):
    here = shutil.copytree(doubtful[1], tmp_path / "photos")
    request = json.loads((copied / "request.json").read_text())
    request["request"] |= {"data": {"path": str(here)}, "base": "lite0"}
    (copied / "request.json").write_text(json.dumps(request))
    before = pictures_in(text_of(report(copied).parent))
    assert any(name.startswith("red/wrong") for name in before)
    changed, gone = sorted(set(before))[:2]
    Image.new("RGB", (40, 40)).save(here / changed)
    (here / gone).unlink()
    after = pictures_in(text_of(report(copied).parent))
    assert set(before) - set(after) == {changed, gone}

    def locked(*sources):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("warmstart.reporting.report.list_examples", locked)
    assert not pictures_in(text_of(report(copied).parent))
    assert "no picture" in text_of(copied)


def test_only_files_that_the_data_list_are_opened(copied, tmp_path):
    """A path that somebody has put into another file of the folder is not followed."""
    secret = tmp_path / "secret.png"
    Image.new("RGB", (64, 64)).save(secret)
    for name in ("inspection.json", "predictions.jsonl"):
        path = copied / name
        path.write_text(re.sub(r"red/wrong\d\.png", str(secret), path.read_text()))
    requests: list[str] = []

    def load(id):
        requests.append(id)
        return secret.read_bytes()

    reporting_report.write_report(copied, load)
    assert str(secret) not in requests
    assert not pictures_in(text_of(copied))  # and what was given has another content than recorded


def test_a_bomb_among_the_pictures_is_not_decoded(copied):
    payload = bomb(60_000, 60_000)
    data = json.loads((copied / "data.json").read_text())
    for example in data["examples"]:
        example["sha256"] = sha256(payload).hexdigest()
    (copied / "data.json").write_text(json.dumps(data))
    requests: list[str] = []

    def load(id):
        requests.append(id)
        return payload

    reporting_report.write_report(copied, load)
    assert 0 < len(requests) == len(set(requests)) <= 40
    assert not pictures_in(text_of(copied))


@pytest.mark.parametrize(
    "name",
    [
        *("plan.toml", "network.json", "data.json", "inspection.json", "weights_ledger.json"),
        *("predictions.jsonl", "progress.jsonl", "env.json", "request.json"),
        *("model/calibration.json", "model/preprocess.json"),
    ],
)
def test_a_run_that_lacks_a_file_has_a_report_without_it(own_run, name):
    line = headline(text_of(own_run))
    (own_run / name).unlink()
    assert line.startswith("Usable with review: ")
    assert headline(text_of(report(own_run).parent)) == line


def test_a_bare_summary_is_enough(own_run):
    for path in own_run.iterdir():
        if path.name != "summary.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = text_of(report(own_run).parent)
    assert '<section id="cost"' in text
    assert '<section id="plan"' not in text


def test_what_is_no_finished_run_is_an_error(tmp_path, own_run):
    with pytest.raises(RunFolderError, match="nowhere does not exist"):
        report(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match="not a finished run"):
        report(tmp_path)
    for name, text in (
        ("predictions.jsonl", '{"id": 1, "scores": 2}'),
        ("predictions.jsonl", "["),
        ("data.json", "{"),
    ):
        (own_run / name).write_text(text)
        with pytest.raises(RunFolderError, match=f"{name} cannot be read"):
            report(own_run)


def test_arrays_without_a_signal_have_a_report_and_a_fault_of_ours_spoils_no_run(
    tmp_path, monkeypatch
):
    def broken(facts):
        raise ZeroDivisionError("a fault of ours")

    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (100, 24, 24, 3), dtype=np.uint8)  # noise under two labels
    notes = []
    with monkeypatch.context() as patch:
        patch.setattr(reporting_report, "page", broken)
        on_event = lambda event: notes.append(str(event.values.get("text", "")))  # noqa: E731
        run = fit((x, np.array(["a", "<script>"] * 50)), out=tmp_path / "run", on_event=on_event)
    assert run.verdict.kind == "no-signal"
    assert (run.path / "DONE").exists()
    assert not (run.path / NAME).exists()
    assert any("report.html could not be written (a fault of ours)" in note for note in notes)
    text = text_of(report(run.path).parent)
    assert headline(text).startswith("Not ready: no signal: ")
    assert "No: nothing was shipped" in text
    assert "Check how the labels were made" in text
    assert "began in Python, from objects" in text
    assert "<script" not in text
    assert not pictures_in(text)


def test_the_command_says_where_it_is_and_opens_it(own_run, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)  # returns None: there is no browser
    assert main(["report", str(own_run)]) == 0
    assert capsys.readouterr().out == f"{own_run / NAME}\n"
    assert not opened
    assert main(["report", str(own_run), "--open", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"path": str(own_run / NAME)}
    assert "No browser was found" in captured.err
    assert opened == [(own_run / NAME).resolve().as_uri()]


# ---- Thumbnails.


def png(width, height):
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def of(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def listed(**payloads):
    examples = tuple(
        Example(id=id, label="a", split="train", sha256=sha256(payload).hexdigest())
        for id, payload in payloads.items()
    )
    return DataRecord(
        name="d", kind="image", task="classify", layout="", classes=("a",), examples=examples
    )


@pytest.mark.parametrize("size", [(900, 300), (300, 900), (161, 161), (90, 60)])
def test_a_picture_keeps_its_shape_and_fits(size):
    small = of(data_uri(Image.new("RGB", size)))
    assert small.format == "JPEG"
    assert max(small.size) <= SIDE
    assert small.width / small.height == pytest.approx(size[0] / size[1], rel=0.05)


def test_a_tiny_picture_loses_nothing():
    pixels = np.random.default_rng(0).integers(0, 255, (8, TINY, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(of(data_uri(Image.fromarray(pixels)))), pixels)


def test_what_is_not_listed_changed_or_torn_is_left_out():
    good, torn = png(60, 60), png(60, 60)[:200]
    files = {"good": good, "torn": torn, "changed": png(61, 60), "b": good}
    record = listed(good=good, torn=torn, changed=png(60, 61), gone=good, b=good)
    requests = []

    def load(id):
        requests.append(id)
        if id not in files:
            raise DataError("cannot be read")
        return files[id]

    ids = ["good", "torn", "changed", "gone", "unlisted", "b"]
    uris = thumbnails(ids, record, load, None)
    assert list(uris) == ["good", "b"]
    assert "unlisted" not in requests
    assert thumbnails(ids, record, load, None) == uris


def test_bands_are_shown_as_colours():
    buffer = io.BytesIO()
    np.save(buffer, np.random.default_rng(0).integers(0, 4000, (20, 30, 6)).astype(np.uint16))
    record, load = listed(field=buffer.getvalue()), lambda id: buffer.getvalue()
    prep = Preprocessing(
        size=(16, 16), resize=16, mean=(0.5,) * 6, std=(0.5,) * 6, ranges=((0.0, 4000.0),) * 6
    )
    assert of(thumbnails(["field"], record, load, prep)["field"]).size == (30, 20)
    assert thumbnails(["field"], record, load, None) == {}
