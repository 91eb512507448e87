"""Base models: ranked and chosen, and runs as base models, over tiny networks."""

from __future__ import annotations

import gc
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import warmstart
from hue_images import fill
from tiny import ARCH, PREP, Convolutions, fit, network, weights
from warmstart.cli.main import main
from warmstart.data.read import read
from warmstart.errors import ModelError, RunFolderError, UsageError
from warmstart.events import drain, follow
from warmstart.features.extraction import extract_features
from warmstart.network.finished_run import FinishedRunModel, partition_base
from warmstart.network.inputs import InputOptions
from warmstart.network.load import load
from warmstart.network.model_folder import read_bundle
from warmstart.network.partition import cut
from warmstart.network.registry import ModelListing
from warmstart.planning import rules
from warmstart.records.answer import ModelRecord
from warmstart.records.data import Example
from warmstart.records.network import FeatureLayer, Ledger, Recipe
from warmstart.records.run_folder import read_json
from warmstart.run import base_model
from warmstart.run.base_model import (
    LEARNT,
    TrainingPast,
    ancestors,
    base_from_run,
    hash_number,
    inherit,
    is_run,
    near_duplicate_limit,
    past_arrays,
    past_of,
)
from warmstart.solve.kernels import Sketch
from warmstart.training.out_of_distribution import Neighbours


class Blind(Convolutions):
    """Sees the noise of a picture, never its colours."""

    def forward(self, x):
        return super().forward(torch.zeros_like(x) + 1e-3 * (x - x.mean((2, 3), keepdim=True)))


def blind():
    torch.manual_seed(0)
    return Blind().eval()


class Broken(Convolutions):
    """Its weights are numbers, what it gives is none."""

    def forward(self, x):
        return super().forward(x / 0.0)


MADE = {
    "small": network,
    "twin": network,
    "layers": lambda: network("layers"),
    "blind": blind,
    "broken": Broken,
}


@pytest.fixture
def disk(monkeypatch):
    """Starts by the names in MADE; what was loaded is told in the list that comes back."""
    loaded = []

    def stand_in(name, **options):
        if name not in MADE:
            raise ModelError(f"base model {name!r} is not known")
        base = load(MADE[name](), preprocessing=PREP)
        loaded.append((name, weakref.ref(base.module)))
        return replace(base, record=replace(base.record, name=name))

    monkeypatch.setattr(base_model, "load", stand_in)
    return loaded


def listed(monkeypatch, *names, parameters=1000):
    result = tuple(
        ModelListing(name=n, title=n, parameters=parameters, size_px=32, where=n) for n in names
    )
    monkeypatch.setattr(base_model, "available_models", lambda: result)


def rank(data, *names, events=None, **options):
    collection = drain(read(data))
    steps = base_model.rank(collection, names, seed=0, **options)
    return follow(steps, (events if events is not None else []).append)


def test_the_network_that_sees_most_comes_first_and_ties_are_named(disk, pictures):
    result = rank(pictures, "blind", "small", "twin")
    assert [base.name for base in result.models] == ["small", "twin", "blind"]
    assert result.ties == (("small", "twin"),)
    assert result.choice == "small"
    best, twin, worst = result.models
    assert (best.difference, twin.difference, twin.difference_low) == (0, 0, 0)
    assert worst.difference == pytest.approx(worst.value - best.value)
    assert worst.difference_high < 0
    assert (result.n, result.method, result.majority) == (36, "nested-cv", pytest.approx(1 / 3))
    assert all(s.low <= s.value <= s.high and s.seconds > 0 for s in result.models)
    again = rank(pictures, "small")
    assert (again.models[0].cached, again.models[0].seconds_per_image) == (True, None)
    assert (best.cached, best.seconds_per_image > 0) == (False, True)
    assert again.because.endswith("no other base model was tried")
    assert "twin (" in result.because
    assert result.because.endswith("times the work) ties with it: the difference could be chance")


def test_a_base_model_that_fails_is_listed_and_the_others_go_on(disk, pictures):
    events = []
    result = rank(pictures, "nowhere", "broken", "small", "small", events=events)
    assert [base.name for base in result.models] == ["small"]
    assert [each.name for each in result.failed] == ["nowhere", "broken"]
    assert "values that are not numbers" in result.failed[1].error
    texts = [str(e.values["text"]) for e in events if e.kind == "note"]
    assert texts[0] == "3 base models on 36 images: 108 forward passes at most"
    assert "nowhere: base model 'nowhere' is not known" in texts
    with pytest.raises(ModelError, match="nowhere"):
        rank(pictures, "nowhere", "broken")


def test_no_network_stays_in_memory_after_its_extraction(disk, monkeypatch, pictures):
    alive = []

    def collected(*given, judge=base_model._score):
        gc.collect()
        alive.extend(name for name, network in disk if network() is not None)
        return judge(*given)

    monkeypatch.setattr(base_model, "_score", collected)
    rank(pictures, "broken", "small")
    assert len(disk) == 2
    assert alive == []


def test_the_test_set_is_not_read(disk, split_pictures, pictures):
    shutil.rmtree(split_pictures / "test" / "red")
    with_test = rank(split_pictures, "small", "blind")
    assert with_test.n == 36
    alone = rank(split_pictures / "train", "small", "blind")
    assert [s.value for s in with_test.models] == [s.value for s in alone.models]


def test_a_held_out_set_judges_alone_and_what_cannot_be_read_counts_for_none(disk, tmp_path):
    fill(tmp_path / "photos" / "train", {"blue": 10, "green": 10, "red": 10})
    fill(tmp_path / "photos" / "val", {"blue": 4, "green": 4, "red": 4}, seed=1)
    (tmp_path / "photos" / "val" / "red" / "000.png").write_bytes(b"nothing")
    result = rank(tmp_path / "photos", "small", "blind")
    assert (result.n, result.method) == (11, "holdout")


def test_the_smallest_on_disk_are_extracted_and_the_others_named(monkeypatch, tmp_path):
    def listing(name, parameters, where=""):
        return ModelListing(name=name, title="", parameters=parameters, size_px=None, where=where)

    (tmp_path / "weights").write_bytes(bytes(4 * 5000))
    sizes = (9000, 1000, 8000, 2000, 7000, 3000)
    models = [*(listing(f"n{n}", n) for n in sizes), listing("file", None, tmp_path / "weights")]
    monkeypatch.setattr(base_model, "available_models", lambda: models)
    names = ["n1000", "n2000", "n3000", "file", "n7000", "n8000", "n9000"]
    assert [[*part] for part in base_model.on_disk()] == [names[:6], names[6:]]
    assert [[*part] for part in base_model.on_disk(2500)] == [names[:2], names[2:]]


def test_auto_takes_the_winner_and_the_plan_says_why(disk, monkeypatch, pictures, tmp_path):
    listed(monkeypatch, "blind", "small")
    events = []
    run = warmstart.fit(
        pictures, base="auto", budget="fast", out=tmp_path / "run", on_event=events.append
    )
    base = run.plan.base
    assert (base.value, base.source, base.rule) == ("small", "measured", "lite0")
    assert "points (" in base.because
    assert base.because.endswith("above blind, the next")
    assert '"auto"' not in (run.path / "plan.toml").read_text("utf-8")
    assert run.summary.base.name == "small"
    assert run.summary.seconds["features"] > run.summary.seconds["read"]
    texts = [str(e.values.get("text")) for e in events if e.kind == "note"]
    assert f"small, {base.because}" in texts
    assert [name for name, _ in disk] == ["blind", "small", "small"]
    listed(monkeypatch, "small")
    alone = warmstart.fit(pictures, base="auto", budget="fast", out=tmp_path / "alone").plan.base
    assert (alone.value, alone.source) == ("small", "rule")
    assert "only base model" in alone.because
    assert len(disk) == 4  # nothing was ranked


def test_a_run_is_opened_and_changed_for_other_inputs(finished):
    base = base_model.open_base(finished.path)
    assert isinstance(base, FinishedRunModel)
    grey = base_model.open_base(str(finished.path), inputs=InputOptions(channels=1))
    assert isinstance(grey, FinishedRunModel)
    assert grey.record.preprocessing.channels == 1
    assert [change.tensor for change in grey.changes] == ["conv_stem.weight"]
    assert base_model.open_base(network(), preprocessing=PREP).record.title == "Convolutions"


def test_without_names_base_models_of_the_datas_own_kind_are_ranked(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        base_model, "on_disk", lambda kind: (asked.append(kind), (("lost.pt",), ()))[1]
    )
    texts = tmp_path / "a.csv"
    texts.write_text("text,label\n" + "red car,a\nblue boat,b\n" * 12, "utf-8")
    with pytest.raises(ModelError, match=r"lost\.pt"):
        drain(base_model.rank_base_models(texts))
    assert asked == ["text"]


def test_the_same_call_gives_the_same_answer_and_a_table_its_groups(people, tmp_path):
    local = f"{weights(tmp_path)}@{ARCH}"
    first, second, grouped = (
        drain(base_model.rank_base_models(people(9), [local], label="label", group=group)).models[0]
        for group in (None, None, "person")
    )
    assert first.value == second.value
    assert grouped.high - grouped.low > first.high - first.low


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"arch": "timm:resnet18"}, "--arch timm:resnet18 belongs to a file of weights"),
        ({"preprocessing": PREP}, "preprocessing belongs to one base model"),
    ],
)
def test_bad_values_are_errors(options, says, pictures, tmp_path):
    with pytest.raises(UsageError, match=says):
        warmstart.fit(pictures, base="auto", out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="--seed -1"):
        drain(base_model.rank_base_models(pictures, ["lite0"], seed=-1))
    with pytest.raises(ModelError, match="add --arch"):
        drain(base_model.rank_base_models(pictures, [str(weights(tmp_path))]))


COUNTS = {"blue": 10, "green": 10, "red": 10}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run of three colours that others start from; tests must not change it."""
    root = tmp_path_factory.mktemp("first")
    fill(root / "colours", COUNTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WARMSTART_CACHE", str(root / "cache"))
        run = fit(
            root / "colours",
            base=weights(root),
            arch=ARCH,
            preprocessing=PREP,
            out=root / "runs" / "colours",
        )
    return run.path


def follow_up(first, tmp_path, counts=COUNTS, seed=5, out="next", **options):
    """A run on other pictures that starts from a run."""
    data = tmp_path / f"data-{out}"
    if not data.exists():
        fill(data, counts, seed)
    return fit(data, base=first, preprocessing=None, out=tmp_path / out, **options)


def record_of(run):
    return read_json(run / "model" / "config.json", ModelRecord)


def test_a_run_describes_itself_as_a_base_model(first, tmp_path):
    record, kept = base_from_run(first).record, record_of(first)
    assert (record.name, record.arch, record.recipe) == (str(first), ARCH, None)
    assert record.title == "colours (lcnet_035, 3 classes)"
    assert (record.labels, record.classes) == (("blue", "green", "red"), 3)
    assert record.lineage == (kept.base, str(first))
    assert record.preprocessing == kept.preprocessing
    assert base_model.base_model(record) is None  # of unknown origin
    assert ancestors(record) == (kept.base,)
    published = replace(record, lineage=("timm:resnet18", "runs/a"))
    assert base_model.base_model(published) == "timm/resnet18.a1_in1k"
    assert ancestors(load("lite0").record) == ()
    shutil.copytree(first, tmp_path / "photos-2")
    (tmp_path / "latest").symlink_to("photos-2")
    newest = base_from_run(tmp_path / "latest").record
    assert newest.name == newest.lineage[-1] == str(tmp_path / "photos-2")
    assert newest.title.startswith("photos-2 (")


def test_it_answers_as_the_run_does(first):
    inputs = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = warmstart.load(first).model(inputs)
        result = partition_base(base_from_run(first)).logits(inputs)
    torch.testing.assert_close(result, expected)  # the other one runs in channels_last


def test_paths_differ_from_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["lite0", "timm:resnet18", "torchvision:a/b"]
    files = ["best.pt", "weights/best.pt", "resnet18"]
    assert not any(map(is_run, [*names, *files, torch.nn.Linear(2, 2)]))
    assert is_run("runs/nowhere")
    assert is_run(Path("runs/nowhere"))
    for name in files:
        Path(name).mkdir(parents=True)
        assert is_run(name)


def test_a_run_that_follows_keeps_lineage_and_the_ledger_of_the_old_head(first, tmp_path):
    run = follow_up(first, tmp_path)
    record = record_of(run.path)
    assert record.base == run.summary.base.name == str(first)
    assert record.lineage == base_from_run(first).record.lineage
    rows = read_json(run.path / "weights_ledger.json", Ledger).rows
    old, new = (load_file(path / "model" / "model.safetensors") for path in (first, run.path))
    dropped = {row.tensor: row.shape for row in rows if row.fate == "dropped"}
    assert dropped == {n: tuple(t.shape) for n, t in old.items() if n.startswith("head.")}
    backbone = {name for name in old if name.startswith("backbone.")}
    assert {f"backbone.{row.tensor}" for row in rows if row.fate == "unchanged"} == backbone
    assert all(torch.equal(new[name], old[name]) for name in backbone)
    third = follow_up(run.path, tmp_path, seed=6, out="third")
    assert record_of(third.path).lineage == (*record.lineage, str(run.path))
    text = (third.path / "README.md").read_text("utf-8")
    assert f"Built on {run.path} (blue, green, red), which was built on {first}, " in text


def test_the_command_and_python_take_a_run(first, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copytree(first, tmp_path / "runs" / "colours")
    (tmp_path / "runs" / "latest").symlink_to("colours")
    fill(tmp_path / "data", COUNTS, seed=5)
    assert main(["fit", "data", "--base", "runs/latest", "--budget", "fast", "--out", "a"]) == 0
    assert "3 of 3 classes have the name of a class" in " ".join(capsys.readouterr().err.split())
    again = warmstart.fit("data", base=Path("runs/colours"), budget="fast", out="b")
    one, two = (load_file(f"{run}/model/model.safetensors") for run in ("a", "b"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert again.plan.base.value == "runs/colours"


def test_layers_that_a_run_added_are_blocks_of_its_network(first, tmp_path):
    # What the random weights of the start give is so faint that a usual rate drowns it.
    added = follow_up(first, tmp_path, strategy="head+add", lr=1e-9, out="added")
    (hidden,) = record_of(added.path).added
    base = base_from_run(added.path)
    assert base.record.added == (hidden,)
    run = fit(tmp_path / "data-added", base=added.path, preprocessing=None, out=tmp_path / "run")
    assert record_of(run.path).added == (hidden,)
    assert [block.name for block in run.plan.blocks][-2:] == ["added", "output"]
    before, after = (load_file(r.path / "model" / "model.safetensors") for r in (added, run))
    names = [name for name in before if name.startswith("backbone.")]
    assert any("added" in name for name in names)
    assert all(torch.equal(before[name], after[name]) for name in names)
    picture = next((tmp_path / "data-added").rglob("*.png"))
    assert run.predict([picture])[0].label in COUNTS
    assert "## Without warmstart" not in (run.path / "README.md").read_text("utf-8")


def test_classes_of_the_same_name_begin_from_the_old_output(first, tmp_path):
    events = []
    run = follow_up(first, tmp_path, {"blue": 10, "red": 10, "violet": 10}, on_event=events.append)
    assert all(name.endswith("+prior") for name in run.plan.head.candidates.value)
    assert record_of(run.path).head.endswith("+prior")
    assert "same name" in run.summary.shipped.why
    texts = [str(event.values.get("text")) for event in events]
    assert f"2 of 3 classes have the name of a class in {first} and begin from its head" in texts


def test_images_that_the_run_learnt_from_are_no_ground_for_its_head(first, tmp_path):
    """Its answers for them hold their labels: an estimate that uses them would be too high."""
    data = Path(shutil.copytree(first.parent.parent / "colours", tmp_path / "data"))
    fill(data, {"white": 5}, seed=9)
    result, texts = inherited(base_from_run(first), data)
    assert texts == [f"the old head is not used: {first} was trained on 30 of these images"]
    assert (result.prior, result.leak) == (None, None)
    trained, _ = inherited(base_from_run(first), data, tuned=True)
    assert trained.prior is None
    assert "was trained on 30 of the 35 training images" in trained.leak.sentence


def inherited(base, data, tuned=False, looks=False):
    """What a run passes on to a data set, with its features where it `looks`, and what it says."""
    if tuned:
        recipe = Recipe(optimizer="adamw", lr=1e-4, batch_size=8, schedule="cosine")
        base = replace(base, record=replace(base.record, recipe=recipe))
    collection, events = drain(read(data)), []
    extracted = drain(extract_features(collection, base)) if looks else None
    steps = inherit(base, partition_base(base).record, collection.record, extracted)
    return follow(steps, events.append), [event.values["text"] for event in events]


def test_a_test_set_that_the_old_head_has_learnt_from_is_reported(first, tmp_path):
    fill(tmp_path / "data" / "train", COUNTS, seed=5)
    shutil.copytree(first.parent.parent / "colours", tmp_path / "data" / "test")
    result, _ = inherited(base_from_run(first), tmp_path / "data")
    assert result.prior is not None
    assert (result.leak.kind, len(result.leak.items)) == ("leakage", 30)
    assert "was trained on 30 of the 30 test images: the metrics" in result.leak.sentence
    collection = drain(read(tmp_path / "data"))
    problems = (*collection.record.problems, result.leak)
    assert result.with_leak(collection).record.problems == problems


def test_what_was_learnt_from_is_known_wherever_the_folders_are(first, tmp_path, monkeypatch):
    """Neither another working directory nor a new name of an ancestor lets a leak through."""
    (tmp_path / "work" / "runs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    shutil.copytree(first, "runs/colours")
    run = follow_up(Path("runs/colours"), tmp_path, out="work/runs/next")
    data = Path(shutil.copytree(first.parent.parent / "colours", tmp_path / "data"))
    result, _ = inherited(base_from_run(run.path), data)
    assert result.prior is None
    Path("runs/colours").rename("runs/renamed")
    (run.path / "data.json").unlink()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    base = base_from_run(Path("../work/runs/next"))
    assert len(base.past.hashes) == 60
    assert inherited(base, data)[0].prior is None
    tuned, _ = inherited(base, data, tuned=True)
    assert len(tuned.leak.items) == 30
    others = fill(tmp_path / "others", COUNTS, seed=12)
    assert inherited(base, others)[0].prior is not None


def test_pictures_that_were_saved_again_are_recognised(first, tmp_path):
    others, copies = fill(tmp_path / "others", COUNTS, seed=12), tmp_path / "copies"
    for path in (first.parent.parent / "colours").rglob("*.png"):
        (copies / path.parent.name).mkdir(parents=True, exist_ok=True)
        copy = copies / path.parent.name / f"{path.stem}.jpg"
        Image.open(path).save(copy, quality=97, subsampling=0)
    base = base_from_run(first)
    assert inherited(base, copies)[0].prior is not None  # no byte is the same
    assert inherited(base, copies, looks=True)[0].prior is None
    assert inherited(base, others, looks=True)[0].prior is not None
    leak = inherited(base, copies, tuned=True, looks=True)[0].leak
    says = "was trained on 30 of the 30 training images (the same or nearly the same picture): the"
    assert says in leak.sentence
    assert inherited(base, others, tuned=True, looks=True)[0].leak is None


def test_no_prior_comes_from_many_images_another_network_or_no_run(first, tmp_path, monkeypatch):
    record = drain(read(fill(tmp_path / "data", COUNTS, seed=5))).record
    run, own = base_from_run(first), load(network(), preprocessing=PREP)
    other = cut(network(), PREP).record
    assert drain(inherit(run, partition_base(run).record, record)).prior is not None
    assert drain(inherit(run, other, record)).prior is None
    result = drain(inherit(own, other, record))
    assert (result.prior, result.leak) == (None, None)
    assert result.names(["last", "late"]) == ("last", "late")
    lost = replace(run, past=replace(run.past, is_whole=False))
    events = []
    steps = inherit(lost, partition_base(run).record, record)
    assert follow(steps, events.append).prior is None
    assert "was trained on can no longer be read" in events[0].values["text"]
    monkeypatch.setattr(rules, "DUAL_LIMIT", 29)
    assert drain(inherit(run, partition_base(run).record, record)).prior is None


def damaged(tmp_path, first, name):
    model = Path(shutil.copytree(first, tmp_path / name)) / "model"
    if name in ("none-shipped", "interrupted"):
        shutil.rmtree(model)
    if name == "interrupted":
        (model.parent / "DONE").rename(model.parent / "INTERRUPTED")
    elif name == "torn":
        (model / "model.safetensors").write_bytes(b"\x10")
    elif name == "half":
        tensors = load_file(model / "model.safetensors")
        tensors.pop("backbone.conv_stem.weight")
        save_file(tensors, model / "model.safetensors")
    return model.parent


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("none-shipped", "holds no model: none was shipped"),
        ("interrupted", "its run did not finish"),
        ("torn", "cannot be read"),
        ("half", "is damaged"),
    ],
)
def test_a_run_without_a_whole_model_is_refused_with_one_line(name, says, first, tmp_path, capsys):
    run = damaged(tmp_path, first, name)
    fill(tmp_path / "data", {"blue": 3, "red": 3})
    with pytest.raises(RunFolderError, match=says):
        base_from_run(run)
    assert main(["fit", str(tmp_path / "data"), "--base", str(run), "-q"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_what_is_no_base_model_of_its_own_says_so(first, pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunFolderError, match=r"runs/nowhere does not exist \(runs is missing\)"):
        base_from_run(Path("runs/nowhere"))
    with pytest.raises(RunFolderError, match="pictures is not a finished run folder"):
        base_from_run(Path("pictures"))
    with pytest.raises(ModelError, match=r"--arch timm:resnet18: .* knows its own design"):
        base_from_run(first, "timm:resnet18")
    run = fit(pictures, out=tmp_path / "run")
    with pytest.raises(ModelError, match=r"began from your own network \(Convolutions\)"):
        base_from_run(run.path)
    larger = replace(PREP, size=(48, 48), resize=48)
    assert base_from_run(first, None, larger).record.preprocessing == larger


def example(name, sha256=None):
    return Example(id=name, label="a", split="train", sha256=sha256 or name * 64)


def test_a_run_keeps_its_own_and_those_before_it_once_and_sorted():
    b = hash_number("b" * 64)
    kept = past_arrays(frozenset({5, b}), [example("b"), example("a"), example("a")])
    assert kept[LEARNT].tolist() == [5, hash_number("a" * 64), b]
    assert kept[LEARNT].dtype == np.uint64
    assert past_arrays(None, [example("a")]) == {}  # where the past is not known


def test_the_past_is_read_from_the_model_or_of_an_older_run_from_folders(finished):
    bundle = read_bundle(finished.path)
    past = past_of(bundle, ["nowhere"])
    assert past.inheritable == frozenset(bundle.neighbours[LEARNT].tolist())
    assert len(past.hashes) == len(bundle.ids)
    arrays = {name: array for name, array in bundle.neighbours.items() if name != LEARNT}
    older = replace(bundle, neighbours=arrays)
    assert past_of(older, [str(finished.path)]).inheritable == past.hashes
    partly = past_of(older, ["nowhere", str(finished.path)])
    assert (partly.hashes, partly.is_whole, partly.inheritable) == (past.hashes, False, None)


@pytest.mark.parametrize("n", [2, 1500])
def test_the_limit_is_a_part_of_the_least_distances(n):
    points = np.random.default_rng(0).normal(size=(n, 8)).astype(np.float32)
    apart = np.sqrt(((points[:, None] - points) ** 2).sum(axis=2))
    np.fill_diagonal(apart, np.inf)
    least = np.quantile(apart.min(axis=1), 0.05)
    assert near_duplicate_limit(points) == pytest.approx(
        0.4 * least, rel=1e-3 if n <= 1000 else 0.1
    )


def test_copies_are_found_and_other_pictures_are_not():
    points = np.random.default_rng(0).normal(size=(700, 6)).astype(np.float32)
    sketch = Sketch(np.arange(6), np.ones(6, np.float32), 6)
    offset, scale = np.full(6, 3, np.float32), np.full(6, 2, np.float32)
    known = Neighbours(offset, scale, sketch, points)
    past = TrainingPast(
        frozenset(),
        True,
        known,
        (FeatureLayer(block=1, pool="avg"), FeatureLayer(block=2, pool="avg")),
    )
    limit, rng = near_duplicate_limit(points), np.random.default_rng(1)
    aside = rng.normal(size=(700, 6))
    aside /= np.linalg.norm(aside, axis=1)[:, None]
    shift = np.where(np.arange(700) % 2, 1.1, 0.9) * limit
    moved = np.concatenate([points[:1], points + shift[:, None] * aside]).astype(np.float32)
    nearest = np.sqrt(((moved[:, None] - points) ** 2).sum(axis=2)).min(axis=1)
    features = moved / scale + offset
    examples = [example(str(row), "0" * 64) for row in range(701)]

    def read(block):
        rows = [int(e.id) for e in block]
        return lambda layer: features[rows, :2] if layer.block == 1 else features[rows, 2:]

    result = [int(e.id) for e in past.near_duplicates(examples, read)]
    assert result == np.flatnonzero(nearest < limit).tolist()
    assert 300 < len(result) < 400
