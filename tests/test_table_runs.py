"""Whole runs on tables: from nothing, from another table, and what users get wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import tables
import warmstart
from tiny import bytes_of, lines
from warmstart.cli.main import main
from warmstart.errors import DataError, ModelError
from warmstart.records.plan import Choice, ColumnPlan

pytestmark = pytest.mark.slow

QUICK = ("training.epochs=6.4", "training.folds=1")


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    """A run from nothing, all layers trained, and its table."""
    root = tmp_path_factory.mktemp("clinic")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_CACHE", str(root / "cache"))
        path = tables.table(root / "clinic.csv", 60)
        test = tables.table(root / "test.csv", 20, seed=9)
        run = warmstart.fit(
            path, test=test, strategy="scratch", settings=QUICK, budget="fast", out=root / "run"
        )
    return run, path


def test_a_table_is_learnt_from_nothing(clinic):
    run, _ = clinic
    assert run.summary.base.name == "scratch"
    assert run.summary.shipped.strategy == "scratch"
    assert run.estimate.value > 0.7
    assert run.test.accuracy > 0.7
    told = json.loads((run.path / "data.json").read_text())
    assert told["kind"] == "table"
    assert [column["name"] for column in told["columns"]] == ["age", "dose", "site"]
    kept = json.loads((run.path / "model" / "preprocess.json").read_text())
    assert kept == {"columns": told["columns"]}
    ledger = json.loads((run.path / "weights_ledger.json").read_text())["rows"]
    assert {row["fate"] for row in ledger} <= {"new", "dropped", "frozen", "unchanged"}


def test_nothing_is_said_to_be_learnt_from_a_network_that_knows_nothing(clinic, tmp_path):
    assert "The labels can be learnt from these columns (" in clinic[0].verdict.sentence
    assert "trained from scratch as you chose: " in clinic[0].verdict.sentence
    assert "tuned" not in clinic[0].verdict.sentence
    run = warmstart.fit(clinic[1], strategy="head", budget="fast", out=tmp_path / "run")
    assert "base model" not in run.verdict.sentence
    assert "heads on the columns and on untrained layers were compared" in run.verdict.sentence


def test_boosting_stands_beside_it(clinic):
    run, _ = clinic
    (baseline,) = run.summary.baselines
    assert baseline.name == "gradient boosting"
    assert baseline.estimate.n == baseline.n == 12  # what one training held out
    assert baseline.low <= baseline.difference <= baseline.high
    assert baseline.is_better == (baseline.low > 0)
    assert baseline.sentence in (run.path / "README.md").read_text()
    assert "Other methods" in (run.path / "report.html").read_text()


def test_rows_are_answered_and_what_cannot_be_read_says_so(clinic, tmp_path, capsys):
    run, _ = clinic
    body = [["62", "1", "south", ""], ["40", "", "west", ""], ["old", "1", "north", ""]]
    path = tables.write(tmp_path / "new.csv", body)
    assert main(["predict", str(run.path), str(path), "--json"]) == 0
    result = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["path"].rpartition("/")[2] for line in result] == [
        "new.csv line 2",
        "new.csv line 3",
        "new.csv line 4",
    ]
    assert [line["label"] for line in result] == ["ill", "well", None]
    assert "\"age\" is 'old', and it holds numbers" in result[2]["error"]
    dicts = [{"age": 62, "dose": 1, "site": "south"}, {"age": 40, "dose": None, "site": "west"}]
    again = warmstart.load(run.path).predict(dicts)
    for line, answer in zip(result, again, strict=False):
        assert answer.scores == pytest.approx(line["scores"])


def test_one_row_gives_one_answer_and_a_table_many(clinic, tmp_path):
    run, _ = clinic
    row = {"age": 62, "dose": 1, "site": "south"}
    assert run.predict(row).label == run.predict([row])[0].label
    path = tables.write(tmp_path / "new.csv", [["62", "1", "south", ""]])
    assert [answer.label for answer in run.predict(path)] == [run.predict(row).label]
    with pytest.raises(DataError, match=r"^the input.*'old'"):
        run.predict(row | {"age": "old"})


def test_a_table_without_a_column_is_refused(clinic, tmp_path):
    path = tables.write(tmp_path / "new.csv", [["62", "south"]], ("age", "site"))
    with pytest.raises(DataError, match=r"new.csv has no column 'dose', which the model takes"):
        warmstart.load(clinic[0].path).predict([path])
    with pytest.raises(DataError, match="#0 is of type int; give tables by their path"):
        warmstart.load(clinic[0].path).predict([3])
    with pytest.raises(DataError, match=r"photo.jpg is not a table; name a .csv"):
        warmstart.load(clinic[0].path).predict(["photo.jpg"])


def test_it_is_evaluated_on_other_rows(clinic, tmp_path, capsys):
    path = tables.table(tmp_path / "more.csv", 20, seed=5)
    assert main(["evaluate", str(clinic[0].path), str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 20


def other_clinic(path, n=40, seed=3):
    """Rows with another column, without one, and with the same labels."""
    rng = np.random.default_rng(seed)
    body = [
        [age, f"{rng.normal():.2f}", site, label]
        for age, _, site, label in tables.rows(n, seed=seed)
    ]
    return tables.write(path, body, ("age", "pulse", "site", "label"))


def test_a_run_is_the_base_model_for_a_table_with_other_columns(clinic, tmp_path):
    first, path = clinic[0], other_clinic(tmp_path / "other.csv")
    run = warmstart.fit(
        path,
        base=str(first.path),
        strategy="full",
        settings=QUICK,
        budget="fast",
        out=tmp_path / "run",
    )
    ledger = json.loads((run.path / "weights_ledger.json").read_text())["rows"]
    fates = {row["tensor"]: row["fate"] for row in ledger}
    assert fates["mix.weight"] == "reshaped"
    assert fates["blocks.0.first.weight"] == "trained"
    card = (run.path / "README.md").read_text()
    assert "2 columns keep their weights by name, 1 new begin at zero (pulse)" in card
    assert "1 of the base model's are dropped (dose)" in card
    assert run.summary.fine_tuning_gain is not None
    assert run.summary.base.name == str(first.path)
    assert warmstart.load(run.path).predict([path])[0].label in ("ill", "well")


def test_a_run_from_a_run_from_a_run(clinic, tmp_path):
    path = other_clinic(tmp_path / "other.csv")
    second = warmstart.fit(path, base=str(clinic[0].path), budget="fast", out=tmp_path / "second")
    third = warmstart.fit(
        clinic[1], base=str(second.path), budget="fast", strategy="head", out=tmp_path / "third"
    )
    assert third.estimate.value > 0.6
    assert len(lines(third.path, "predictions.jsonl")) == 60


def test_other_classes_are_no_hindrance(clinic, tmp_path):
    body = [[*row[:3], {"ill": "b", "well": "a"}[row[3]]] for row in tables.rows(40, seed=4)]
    path = tables.write(tmp_path / "letters.csv", body)
    run = warmstart.fit(path, base=str(clinic[0].path), budget="fast", out=tmp_path / "run")
    assert run.predictor.labels == ("a", "b")


def test_base_models_that_take_no_rows_are_refused(clinic, tmp_path):
    path = tables.write(
        tmp_path / "cars.csv",
        [[str(n), "ab"[n % 2]] for n in (3, 1, 4, 1, 5, 9, 2, 6)],
        ("speed", "label"),
    )
    with pytest.raises(ModelError, match="lite1 takes no rows of a table; name a run on"):
        warmstart.fit(clinic[1], base="lite1")
    with pytest.raises(ModelError, match=r"was trained on other columns .* than the data has"):
        warmstart.fit(path, base=str(clinic[0].path))


def test_a_run_for_tables_takes_no_pictures(clinic, pictures):
    with pytest.raises(
        ModelError, match=r"takes tables, pictures holds images; choose a base model"
    ):
        warmstart.fit(pictures, base=str(clinic[0].path))


def test_columns_are_set_by_the_user(clinic, tmp_path):
    settings = ["column.dose=left-out", "column.age=category"]
    run = warmstart.fit(
        clinic[1], settings=settings, strategy="head", budget="fast", out=tmp_path / "run"
    )
    columns = json.loads((run.path / "data.json").read_text())["columns"]
    assert [(c["name"], c["kind"]) for c in columns] == [("age", "category"), ("site", "category")]
    assert "1 column is left out: as you chose." in [f.sentence for f in run.summary.findings]
    planned = {column.name: column.kind for column in run.plan.columns}
    assert [(k.value, k.rule, k.source) for k in planned.values()] == [
        ("category", "number", "user"),
        ("left-out", "number", "user"),
        ("category", "category", "rule"),
    ]
    plan = run.path / "plan.toml"
    again = warmstart.fit(clinic[1], plan=plan, out=tmp_path / "again")
    assert (again.path / "plan.toml").read_bytes() == plan.read_bytes()
    assert bytes_of(again.path / "model") == bytes_of(run.path / "model")


def test_a_plan_is_for_columns_that_are_there(clinic, tmp_path):
    plan = replace(
        clinic[0].plan,
        columns=(
            ColumnPlan(name="height", kind=Choice(value="number", because="mine", source="user")),
        ),
    )
    with pytest.raises(DataError, match=r"the plan's column.height: .* has no such column"):
        warmstart.fit(clinic[1], plan=plan, out=tmp_path / "run")


def test_columns_of_pictures_cannot_be_set(pictures):
    with pytest.raises(DataError, match=r"--set column.age=number: .* holds images, no columns"):
        warmstart.fit(pictures, settings=["column.age=number"])


def test_random_labels_have_no_signal(tmp_path):
    rng = np.random.default_rng(0)
    body = [[*row[:3], ("well", "ill")[rng.integers(2)]] for row in tables.rows(60)]
    run = warmstart.fit(
        tables.write(tmp_path / "noise.csv", body),
        strategy="head",
        budget="fast",
        out=tmp_path / "run",
    )
    assert run.verdict.kind in ("no-signal", "inconclusive")
    assert not any(b.is_better for b in run.summary.baselines)


def test_the_same_row_twice_is_a_duplicate_and_with_two_labels_a_conflict(tmp_path):
    body = tables.rows(40)
    again = [*body[1][:3], body[0][3]]
    run = warmstart.fit(
        tables.write(tmp_path / "twice.csv", [*body, body[0], again]),
        strategy="head",
        budget="fast",
        out=tmp_path / "run",
    )
    assert {"near-duplicate", "conflict"} <= {f.kind for f in run.summary.findings}


def test_where_boosting_is_better_the_verdict_and_the_report_say_so(tmp_path):
    """Which class a row is, neither number tells alone, and no line parts them."""
    rng = np.random.default_rng(0)
    body = []
    for a, b, c in rng.uniform(-1, 1, (160, 3)):
        label = "xy"[int((a > 0) == (abs(b) > 0.5))]
        body.append([f"{a:.4f}", f"{b:.4f}", f"{c:.4f}", label])
    path = tables.write(tmp_path / "board.csv", body, ("a", "b", "c", "label"))
    run = warmstart.fit(path, strategy="head", budget="fast", out=tmp_path / "run")
    (baseline,) = run.summary.baselines
    assert baseline.is_better
    assert run.verdict.sentence.endswith(baseline.sentence)
    assert baseline.sentence.endswith("use it.")
    assert (run.path / "report.html").read_text().count("Gradient boosting is better here") == 2
    assert baseline.sentence in (run.path / "README.md").read_text()


def test_a_dry_run_speaks_of_rows(clinic, capsys):
    assert main(["fit", str(clinic[1]), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "60 training rows" in shown
    assert "batches of 32" in shown
    assert "image" not in shown
