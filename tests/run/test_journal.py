"""The journal of a run: what was settled stays, and is told from what has changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

import plans
from issues import issues
from tiny import fit, network
from warmstart import resume
from warmstart.errors import DataError
from warmstart.events import drain
from warmstart.planning.plan_file import write_plan
from warmstart.records.data import DataRecord, Example, Finding
from warmstart.records.plan import Choice
from warmstart.records.run_folder import RunFolder, from_plain, open_log, write_json
from warmstart.records.summary import Inspection
from warmstart.run.journal import Journal, check_same_data

EXAMPLES = tuple(
    Example(id=f"{label}/{n}.png", label=label, split="train", sha256=f"{label}{n}" * 4, group=None)
    for label in ("cat", "dog")
    for n in range(3)
)
DATA = DataRecord(
    name="pets",
    kind="image",
    task="classify",
    layout="folders",
    classes=("cat", "dog"),
    examples=EXAMPLES,
)


def journal(path: Path, about: str = "about", notes: dict | None = None) -> Journal:
    (path / "checkpoints").mkdir(parents=True, exist_ok=True)
    folder = RunFolder(path)
    return Journal(folder, open_log(folder), about, {} if notes is None else notes)


# ---- the data ----------------------------------------------------------------------------


def test_the_same_data_are_the_same_after_a_round_trip():
    again = from_plain(
        DataRecord,
        json.loads(
            json.dumps(
                {
                    "name": "pets",
                    "kind": "image",
                    "task": "classify",
                    "layout": "folders",
                    "classes": ["cat", "dog"],
                    "examples": [
                        {
                            "id": e.id,
                            "label": e.label,
                            "split": e.split,
                            "sha256": e.sha256,
                            "group": e.group,
                        }
                        for e in EXAMPLES
                    ],
                }
            )
        ),
    )
    check_same_data(Path("runs/a"), DATA, again)


def with_examples(*examples: Example) -> DataRecord:
    return replace(DATA, examples=examples)


DIFFERENCES = {
    "gone": (with_examples(*EXAMPLES[1:]), "cat/0.png is gone"),
    "new": (with_examples(*EXAMPLES, replace(EXAMPLES[0], id="cat/9.png")), "cat/9.png is new"),
    "bytes": (
        with_examples(replace(EXAMPLES[0], sha256="f" * 64), *EXAMPLES[1:]),
        "cat/0.png has changed",
    ),
    **{
        what: (
            with_examples(*EXAMPLES[:4], replace(EXAMPLES[4], **{what: value}), EXAMPLES[5]),
            "dog/1.png has another label, group or split",
        )
        for what, value in (("label", "cat"), ("split", "test"), ("group", "rex"))
    },
    "problems": (
        replace(DATA, problems=(Finding(kind="unreadable", sentence="x"),)),
        "its list of unreadable files differs",
    ),
}


@pytest.mark.parametrize(("now", "says"), DIFFERENCES.values(), ids=DIFFERENCES.keys())
def test_the_first_difference_is_named(now, says):
    with pytest.raises(DataError) as caught:
        check_same_data(Path("runs/a"), DATA, now)
    assert str(caught.value) == (
        f"the data of runs/a have changed since it began: {says}; put them back, or begin "
        "a new run with `warmstart fit`."
    )


# ---- stages ------------------------------------------------------------------------------


def test_a_plan_is_made_once_for_the_same_evidence(tmp_path):
    made = []

    def make():
        made.append(plans.plan_for("full"))
        return made[-1]

    first = journal(tmp_path)
    write_json(tmp_path / "inspection.json", Inspection(evidence=(), label_issues=issues()))
    plan = first.plan(make)
    assert plan == made[0]
    assert (tmp_path / "plan.toml").read_text() == write_plan(plan)
    first.log.close()
    notes = json.loads((tmp_path / "checkpoints" / "journal.json").read_text())
    again = journal(tmp_path, notes=notes)
    assert again.plan(make) == plan
    assert len(made) == 1
    other = Inspection(
        evidence=(),
        label_issues=issues(),
        findings=(Finding(kind="distribution-shift", sentence="another"),),
    )
    write_json(tmp_path / "inspection.json", other)
    again.plan(make)
    assert len(made) == 2
    again.log.close()


def test_evidence_is_gathered_once_for_the_same_data(tmp_path, monkeypatch):
    gathered = []

    def check(training_data):
        gathered.append(training_data)
        yield from ()
        return Inspection(evidence=(), label_issues=issues())

    monkeypatch.setattr("warmstart.evidence.check.check", check)
    notes: dict = {}
    for number, (about, record) in enumerate(
        [("a", DATA), ("a", DATA), ("b", DATA), ("b", with_examples(*EXAMPLES[:4]))]
    ):
        at_work = journal(tmp_path, about, notes)
        write_json(tmp_path / "data.json", record)
        drain(at_work.inspect(number))
        at_work.log.close()
    assert gathered == [0, 2, 3]
    assert (tmp_path / "label_issues.csv").exists()


def test_trainings_of_another_plan_or_request_do_not_count(tmp_path):
    keys = []
    for about, plan in (("a", "full"), ("a", "full"), ("a", "head"), ("b", "head")):
        at_work = journal(tmp_path, about)
        write_json(tmp_path / "data.json", DATA)
        write_json(tmp_path / "inspection.json", Inspection(evidence=(), label_issues=issues()))
        at_work.plan(lambda plan=plan: plans.plan_for(plan))
        keys.append(at_work.checkpoints.key)
        at_work.log.close()
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3


# ---- a damaged journal -------------------------------------------------------------------


class Stop(BaseException):
    """Somebody closes the run."""


def stop(event):
    if (event.stage, event.kind) == ("head", "step"):
        raise Stop


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        '{"engine": 3}',
        '{"engine": {}}',
        '{"plan": 3, "inspection": {"a": 1}}',
        '{"plan": [1, 2]}',
        '{"inspection": ["x", "y"]}',
    ],
)
def test_a_damaged_journal_is_done_without(pictures, tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Stop):
        fit(pictures, out="run", kind="layers", on_event=stop)
    plan = Path("run/plan.toml").read_bytes()
    Path("run/checkpoints/journal.json").write_text(text)
    assert resume("run", base=network("layers")).estimate.n == 36
    assert Path("run/plan.toml").read_bytes() == plan


def test_the_choice_of_the_engine_is_stored_as_it_was_made(tmp_path, monkeypatch):
    choice = Choice(value="onnxruntime", because="2 s, torch 4 s", source="measured", rule="torch")
    asked = []

    def extract_features(collection, base, engine, tell, kept):
        asked.append(engine)
        tell(choice if engine is None else engine)
        yield from ()
        return engine

    monkeypatch.setattr("warmstart.run.journal.extract_features", extract_features)
    monkeypatch.setattr("warmstart.run.plan.engine_of", lambda asked: None)
    monkeypatch.setattr("warmstart.run.plan.stored_block", lambda asked, base, n: 0)
    empty = SimpleNamespace(record=SimpleNamespace(examples=()))
    notes: dict = {}
    for _ in range(2):
        at_work = journal(tmp_path, notes=notes)
        drain(at_work.extracted(None, empty, None))
        at_work.log.close()
    assert asked == [None, choice]
