"""`warmstart report`, and the report that fit writes: from the folder, safely, again alike."""

import json
import re
import shutil
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image

import warmstart
from hue_images import fill
from test_errors_raised import bomb
from tiny import fit
from warmstart.cli.main import main
from warmstart.errors import RunFolderError
from warmstart.records.run_folder import RECORDS
from warmstart.reporting import report as reporting_report
from warmstart.reporting.report import report

NAME = "report.html"


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
        shutil.copy(data / "blue" / f"{i:03}.png", data / "red" / f"wrong{i}.png")
        (data / "blue" / f"{i:03}.png").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_CACHE", str(root / "cache"))
        return fit(data, out=root / "run"), data


def test_fit_writes_it_and_the_verb_writes_the_same_bytes(finished, own_run):
    written = (finished.path / NAME).read_bytes()
    (own_run / NAME).unlink()
    assert report(own_run) == own_run / NAME
    assert (own_run / NAME).read_bytes() == written


def test_it_belongs_to_a_run_folder():
    assert NAME in RECORDS  # what a failed run has left of it may be removed


def test_it_shows_the_pictures_it_speaks_of(doubtful):
    run, data = doubtful
    pictures = pictures_in(text_of(run.path))
    assert any(name.startswith("red/wrong") for name in pictures)
    assert all((data / name).is_file() for name in pictures)


def test_pictures_that_changed_or_went_are_not_shown(doubtful, tmp_path):
    run, data = doubtful
    copy = shutil.copytree(run.path, tmp_path / "run")
    here = shutil.copytree(data, tmp_path / "photos")
    request = json.loads((copy / "request.json").read_text())
    request["request"]["data"] = {"path": str(here)}
    request["request"]["base"] = "lite0"
    (copy / "request.json").write_text(json.dumps(request))
    before = pictures_in(text_of(report(copy).parent))
    changed, gone = sorted(set(before))[:2]
    Image.new("RGB", (40, 40)).save(here / changed)
    (here / gone).unlink()
    after = pictures_in(text_of(report(copy).parent))
    assert set(before) - set(after) == {changed, gone}
    shutil.rmtree(here)
    assert not pictures_in(text_of(report(copy).parent))
    assert "no picture" in text_of(copy)


def test_only_files_that_the_data_list_are_opened(doubtful, tmp_path):
    """A path that somebody has put into another file of the folder is not followed."""
    run, _ = doubtful
    copy = shutil.copytree(run.path, tmp_path / "run")
    secret = tmp_path / "secret.png"
    Image.fromarray(np.full((64, 64, 3), 7, np.uint8)).save(secret)
    for name in ("inspection.json", "predictions.jsonl"):
        path = copy / name
        for place in sorted(set(re.findall(r"red/wrong\d\.png", path.read_text()))):
            path.write_text(path.read_text().replace(place, str(secret)))
    requests: list[str] = []

    def load(id):
        requests.append(id)
        return secret.read_bytes()

    reporting_report.write_report(copy, load)
    assert str(secret) not in requests
    assert not pictures_in(text_of(copy))  # and what was given has another content than recorded


def test_a_bomb_among_the_pictures_is_not_decoded(doubtful, tmp_path):
    run, _ = doubtful
    copy = shutil.copytree(run.path, tmp_path / "run")
    payload = bomb(60_000, 60_000)
    data = json.loads((copy / "data.json").read_text())
    for example in data["examples"]:
        example["sha256"] = sha256(payload).hexdigest()
    (copy / "data.json").write_text(json.dumps(data))
    reporting_report.write_report(copy, lambda id: payload)
    assert not pictures_in(text_of(copy))


def test_names_of_users_stay_text(tmp_path):
    script = "<script>alert(1)<!--"
    data = fill(tmp_path / "photos", {script.replace("/", ""): 12, "b&\"'": 12})
    run = fit(data, out=tmp_path / "run")
    text = text_of(run.path)
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;!--" in text


OPTIONAL = [
    "plan.toml",
    "network.json",
    "data.json",
    "inspection.json",
    "weights_ledger.json",
    "predictions.jsonl",
    "progress.jsonl",
    "env.json",
    "request.json",
    "model/calibration.json",
    "model/preprocess.json",
]


@pytest.mark.parametrize("name", OPTIONAL)
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
    with pytest.raises(RunFolderError, match=r"nowhere does not exist; name a folder"):
        report(tmp_path / "nowhere")
    with pytest.raises(RunFolderError, match="it is not a finished run folder"):
        report(tmp_path)
    (own_run / "data.json").write_text("{")
    with pytest.raises(RunFolderError, match=r"data.json cannot be read"):
        report(own_run)


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"id": 1, "scores": 2}'])
def test_torn_predictions_are_an_error(own_run, line):
    (own_run / "predictions.jsonl").write_text(line)
    with pytest.raises(RunFolderError, match=r"predictions.jsonl cannot be read .*; restore it"):
        report(own_run)


def test_no_signal_has_a_report_too(tmp_path):
    rng = np.random.default_rng(0)
    data = tmp_path / "photos"
    for i in range(100):  # noise under two labels
        (data / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(noise).save(data / "ab"[i % 2] / f"{i:03}.png")
    run = fit(data, out=tmp_path / "run")
    assert run.verdict.kind == "no-signal"
    text = text_of(run.path)
    assert headline(text).startswith("Not ready: no signal: ")
    assert "No: nothing was shipped" in text
    assert "Check how the labels were made" in text


def test_a_report_that_cannot_be_written_does_not_spoil_the_run(tmp_path, monkeypatch):
    data = fill(tmp_path / "photos", {"blue": 6, "red": 6})

    def broken(facts):
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr(reporting_report, "page", broken)
    notes = []
    run = fit(data, out=tmp_path / "run", on_event=lambda e: notes.append(e.values.get("text", "")))
    assert (run.path / "DONE").exists()
    assert not (run.path / NAME).exists()
    assert any("report.html could not be written (a fault of ours)" in str(n) for n in notes)
    monkeypatch.undo()
    assert report(run.path).is_file()


def test_arrays_have_pictures_where_they_are_at_hand(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (40, 24, 24, 3), dtype=np.uint8)
    x[::2, :, :, 0] //= 4
    y = np.array(["odd", "even"])[(np.arange(40) % 2 == 0).astype(int)]
    y[:3] = ["odd", "even", "odd"]
    run = fit((x, y), out=tmp_path / "run")
    first = text_of(run.path)
    assert "began in Python, from objects" in first
    if pictures_in(first):
        assert not pictures_in(text_of(report(run.path).parent))


def test_of_many_large_images_only_those_that_are_shown_are_read(tmp_path):
    rng = np.random.default_rng(0)
    data = tmp_path / "photos"
    for i in range(160):
        (data / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((600, 450)).save(data / "ab"[i % 2] / f"{i:03}.jpg")
    run = fit(data, out=tmp_path / "run")
    read = []

    def load(id):
        read.append(id)
        return (data / id).read_bytes()

    path = reporting_report.write_report(run.path, load)
    assert 0 < len(read) == len(set(read)) <= 40
    assert path.stat().st_size < 1_000_000


def test_the_command_writes_it_and_says_where(own_run, capsys, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or True)
    assert main(["report", str(own_run)]) == 0
    assert capsys.readouterr().out == f"{own_run / NAME}\n"
    assert not opened
    assert main(["report", str(own_run), "--open", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"path": str(own_run / NAME)}
    assert opened == [(own_run / NAME).resolve().as_uri()]


def test_without_a_browser_it_says_what_to_do(own_run, capsys, monkeypatch):
    monkeypatch.setattr("webbrowser.open", lambda url: False)
    assert main(["report", str(own_run), "--open"]) == 0
    assert "No browser was found" in capsys.readouterr().err


def test_a_run_from_another_folder_is_found(tmp_path, monkeypatch):
    fill(tmp_path / "photos", {"blue": 12, "red": 12})
    monkeypatch.chdir(tmp_path)
    warmstart_run = fit("photos", out="run")
    written = text_of(tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert report(tmp_path / "run") == tmp_path / "run" / NAME
    assert text_of(tmp_path / "run") == written
    assert isinstance(warmstart_run, warmstart.Run)


def test_data_that_may_not_be_read_leave_the_pictures_out(own_run, monkeypatch):
    def locked(*sources):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("warmstart.reporting.report.list_examples", locked)
    report(own_run)
    assert pictures_in(text_of(own_run)) == []
