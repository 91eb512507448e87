"""Runs that start from runs: real ones, over a tiny network and pictures that were drawn."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import warmstart
from hue_images import fill
from tiny import ARCH, PREP, fit, network, weights
from warmstart.cli.main import main
from warmstart.data.read import read
from warmstart.errors import ModelError, RunFolderError
from warmstart.events import drain
from warmstart.features.extraction import extract_features
from warmstart.network.finished_run import partition_base
from warmstart.network.load import load
from warmstart.network.partition import cut
from warmstart.planning import rules
from warmstart.records.answer import ModelRecord
from warmstart.records.data import DataRecord
from warmstart.records.network import Ledger, Recipe
from warmstart.records.run_folder import read_json, write_json
from warmstart.run.base_model import ancestors, base_from_run, base_model, inherit, is_run

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


def candidates(run):
    return run.plan.head.candidates.value


def edited(first, tmp_path, **changes):
    """A copy of a run whose model/config.json says something else."""
    copy = Path(shutil.copytree(first, tmp_path / "edited"))
    write_json(copy / "model" / "config.json", replace(record_of(copy), **changes))
    return copy


# ---- what a run is as a start ---------------------------------------------------------------


def test_a_run_describes_itself_as_a_base_model(first):
    base = base_from_run(first)
    record, kept = base.record, record_of(first)
    assert record.name == str(first)
    assert record.title == "colours (lcnet_035, 3 classes)"
    assert (record.labels, record.classes) == (("blue", "green", "red"), 3)
    assert record.lineage == (kept.base, str(first))
    assert record.preprocessing == kept.preprocessing
    assert record.recipe is None
    assert record.arch == ARCH


def test_it_answers_as_the_run_does(first):
    inputs = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = warmstart.load(first).model(inputs)
        result = partition_base(base_from_run(first)).logits(inputs)
    torch.testing.assert_close(result, expected)  # the other one runs in channels_last


def test_the_title_names_the_network_as_people_do(first, tmp_path):
    lite = edited(first, tmp_path, arch="timm:tf_efficientnet_lite0")
    with pytest.raises(RunFolderError, match="is damaged"):
        base_from_run(lite)
    from warmstart.network.model_folder import read_bundle
    from warmstart.run.base_model import _base_record

    assert _base_record(lite, read_bundle(lite)).title == "edited (EfficientNet-Lite0, 3 classes)"


def test_the_newest_run_is_named_by_what_it_is_today(first, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "photos").symlink_to(first)
    shutil.copytree(first, tmp_path / "runs" / "photos-2")
    (tmp_path / "runs" / "latest").symlink_to("photos-2")
    record = base_from_run(tmp_path / "runs" / "latest").record
    assert record.name == str(tmp_path / "runs" / "photos-2")
    assert record.title.startswith("photos-2 (")
    assert record.lineage[-1] == record.name


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("lite0", False),
        ("timm:resnet18", False),
        ("best.pt", False),
        ("weights/best.pt", False),
        ("torchvision:a/b", False),
        ("runs/nowhere", True),
        (Path("runs/nowhere"), True),
        ("resnet18", False),
        (torch.nn.Linear(2, 2), False),
    ],
)
def test_paths_differ_from_names(base, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_run(base) is expected
    if isinstance(base, str) and ":" not in base and base != "lite0":
        Path(base).mkdir(parents=True)
        assert is_run(base)


# ---- starting from it -----------------------------------------------------------------------


def test_a_run_that_follows_keeps_names_lineage_and_the_ledger_of_the_old_head(first, tmp_path):
    run = follow_up(first, tmp_path)
    record = record_of(run.path)
    assert record.base == str(first)
    assert record.lineage == (*base_from_run(first).record.lineage,)
    assert run.summary.base.name == str(first)
    rows = read_json(run.path / "weights_ledger.json", Ledger).rows
    old = load_file(first / "model" / "model.safetensors")
    dropped = {row.tensor: row.shape for row in rows if row.fate == "dropped"}
    assert dropped == {n: tuple(t.shape) for n, t in old.items() if n.startswith("head.")}
    kept = [row for row in rows if row.fate == "unchanged"]
    assert {f"backbone.{row.tensor}" for row in kept} == {
        n for n in old if n.startswith("backbone.")
    }
    new = load_file(run.path / "model" / "model.safetensors")
    for name in old:
        if name.startswith("backbone."):
            assert torch.equal(new[name], old[name])
    third = follow_up(run.path, tmp_path, seed=6, out="third")
    assert record_of(third.path).lineage == (*record.lineage, str(run.path))
    text = (third.path / "README.md").read_text("utf-8")
    assert f"Built on {run.path} (blue, green, red), which was built on {first}, " in text


def test_the_card_names_the_oldest_ancestor(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "colours", COUNTS)
    fit(tmp_path / "colours", base="lite0", preprocessing=None, out=Path("runs/colours"))
    run = follow_up("runs/colours", tmp_path, out="runs/next")
    text = (run.path / "README.md").read_text("utf-8")
    assert 'base_model: "timm/tf_efficientnet_lite0.in1k"\n' in text.split("---\n")[1]
    assert (
        "Built on runs/colours (blue, green, red), which was built on EfficientNet-Lite0 "
        "(ImageNet)." in text
    )
    assert "Base model: colours (EfficientNet-Lite0, 3 classes)" in text
    first_card = Path("runs/colours/README.md").read_text("utf-8")
    assert "Built on" not in first_card
    assert "base_model" in first_card


def test_a_base_model_of_unknown_origin_names_no_base(first):
    record = base_from_run(first).record
    assert base_model(record) is None
    assert ancestors(record) == (record_of(first).base,)
    assert ancestors(load("lite0").record) == ()
    assert base_model(replace(record, lineage=("timm:resnet18", "runs/a"))) == (
        "timm/resnet18.a1_in1k"
    )


def test_the_command_and_python_take_a_run(first, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    shutil.copytree(first, tmp_path / "runs" / "colours")
    (tmp_path / "runs" / "latest").symlink_to("colours")
    fill(tmp_path / "data", COUNTS, seed=5)
    command = ["fit", "data", "--base", "runs/latest", "--budget", "fast", "--out", "a"]
    assert main(command) == 0
    err = capsys.readouterr().err
    assert "colours (lcnet_035, 3 classes)" in err
    assert "3 of 3 classes have the name of a class in runs/colours" in " ".join(err.split())
    again = warmstart.fit("data", base=Path("runs/colours"), budget="fast", out="b")
    one, two = (load_file(f"{run}/model/model.safetensors") for run in ("a", "b"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert again.plan.base.value == "runs/colours"


def test_rank_takes_runs_and_lists_those_that_fail(first, tmp_path, capsys):
    fill(tmp_path / "data", COUNTS, seed=5)
    models = f"{first},{tmp_path / 'runs' / 'nowhere'}"
    assert main(["rank", str(tmp_path / "data"), "--models", models, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [base["name"] for base in result["models"]] == [str(first)]
    assert result["models"][0]["head"].endswith("+prior")
    assert "nowhere does not exist" in result["failed"][0]["error"]


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


# ---- the prior ------------------------------------------------------------------------------


def test_classes_of_the_same_name_begin_from_the_old_output(first, tmp_path):
    run = follow_up(first, tmp_path)
    assert [name for name in candidates(run) if not name.endswith("+prior")] == []
    assert record_of(run.path).head.endswith("+prior")
    assert "same name" in run.summary.shipped.why
    assert "same name" in run.plan.head.candidates.because


def test_an_old_run_in_another_order_gives_the_same_model(first, tmp_path):
    """Names are the identity of a class: the rows of the old head may stand anywhere."""
    order, copy = [2, 0, 1], Path(shutil.copytree(first, tmp_path / "permuted"))
    record = record_of(copy)
    names = tuple(record.classes[i] for i in order)
    write_json(copy / "model" / "config.json", replace(record, classes=names))
    tensors = load_file(copy / "model" / "model.safetensors")
    rows = {n: t[order] for n, t in tensors.items() if n.startswith("head.") and t.ndim}
    save_file({**tensors, **rows}, copy / "model" / "model.safetensors")
    one = follow_up(first, tmp_path)
    two = fit(tmp_path / "data-next", base=copy, preprocessing=None, out=tmp_path / "two")
    a, b = (load_file(run.path / "model" / "model.safetensors") for run in (one, two))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert one.summary.estimate == two.summary.estimate


def test_as_many_classes_of_other_names_are_no_prior(first, tmp_path):
    names = {"Blue": 10, "GREEN": 10, "violet": 10}
    run = follow_up(first, tmp_path, names)
    plain = fit(
        tmp_path / "data-next",
        base=weights(tmp_path),
        arch=ARCH,
        preprocessing=PREP,
        out=tmp_path / "plain",
    )
    assert candidates(run) == candidates(plain)
    a, b = (load_file(each.path / "model" / "model.safetensors") for each in (run, plain))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_part_of_the_classes_is_enough(first, tmp_path):
    events = []
    run = follow_up(first, tmp_path, {"blue": 10, "red": 10, "violet": 10}, on_event=events.append)
    assert record_of(run.path).head.endswith("+prior")
    texts = [str(event.values.get("text")) for event in events]
    assert f"2 of 3 classes have the name of a class in {first} and begin from its head" in texts


def test_images_that_the_run_learnt_from_are_no_ground_for_its_head(first, tmp_path):
    """Its answers for them hold their labels: an estimate that uses them would be too high."""
    data = Path(shutil.copytree(first.parent.parent / "colours", tmp_path / "data-next"))
    fill(tmp_path / "more", COUNTS, seed=8)
    for path in (tmp_path / "more").rglob("*.png"):
        path.rename(data / path.parent.name / f"new-{path.name}")
    events = []
    run = follow_up(first, tmp_path, on_event=events.append)
    assert not any(name.endswith("+prior") for name in candidates(run))
    texts = [str(event.values.get("text")) for event in events]
    said = f"the old head is not used: {first} was trained on 30 of these images"
    assert said in texts
    assert not [f for f in run.summary.findings if f.kind == "leakage"]


def inherited(base, data, tuned=False):
    """What a run passes on to a data set, without fitting anything."""
    if tuned:
        recipe = Recipe(optimizer="adamw", lr=1e-4, batch_size=8, schedule="cosine")
        base = replace(base, record=replace(base.record, recipe=recipe))
    record = drain(read(data)).record
    return drain(inherit(base, partition_base(base).record, record)), record


def test_a_test_set_that_the_old_head_has_learnt_from_is_reported(first, tmp_path):
    colours = first.parent.parent / "colours"
    fill(tmp_path / "data" / "train", COUNTS, seed=5)
    shutil.copytree(colours, tmp_path / "data" / "test")
    result, record = inherited(base_from_run(first), tmp_path / "data")
    assert result.prior is not None
    assert result.leak.kind == "leakage"
    assert len(result.leak.items) == 30
    assert result.leak.sentence == (
        f"{first} was trained on 30 of the 30 test images: the metrics of this run are too "
        "optimistic"
    )
    collection = drain(read(tmp_path / "data"))
    assert result.with_leak(collection).record.problems == (*record.problems, result.leak)


def test_layers_that_were_trained_on_the_images_are_reported_whatever_the_head(first, tmp_path):
    data = Path(shutil.copytree(first.parent.parent / "colours", tmp_path / "data"))
    fill(data, {"white": 5}, seed=9)
    result, _ = inherited(base_from_run(first), data, tuned=True)
    assert result.prior is None
    assert "was trained on 30 of the 35 training images" in result.leak.sentence
    untuned, _ = inherited(base_from_run(first), data)
    assert (untuned.prior, untuned.leak) == (None, None)


def test_what_the_runs_before_it_learnt_from_counts_too(first, tmp_path):
    second = follow_up(first, tmp_path)
    base = base_from_run(second.path)
    data = shutil.copytree(first.parent.parent / "colours", tmp_path / "data")
    result, _ = inherited(base, data, tuned=True)
    assert len(result.leak.items) == 30


def forgetful(run):
    """The same run as it was written before runs kept what they learnt from."""
    path = run / "model" / "neighbours.safetensors"
    with safe_open(path, "pt") as file:
        ids = file.metadata()
    arrays = load_file(path)
    del arrays["learnt"]
    save_file(arrays, path, ids)
    return run


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


def test_a_run_that_follows_keeps_what_all_before_it_learnt_from(first, tmp_path):
    one = load_file(first / "model" / "neighbours.safetensors")["learnt"].tolist()
    examples = read_json(first / "data.json", DataRecord).examples
    assert one == sorted(int(example.sha256[:16], 16) for example in examples)
    second = follow_up(first, tmp_path)
    two = load_file(second.path / "model" / "neighbours.safetensors")["learnt"].tolist()
    assert len(two) == 60
    assert set(one) < set(two)


def test_an_older_run_asks_the_folders_and_without_them_its_head_is_no_prior(
    first, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    forgetful(Path(shutil.copytree(first, "old")))
    second = follow_up(Path("old"), tmp_path)
    base = base_from_run(second.path)
    assert len(base.past.hashes) == 60
    others = fill(tmp_path / "others", COUNTS, seed=12)
    assert inherited(base, others)[0].prior is not None
    forgetful(second.path)
    assert inherited(base_from_run(second.path), others)[0].prior is not None
    Path("old").rename("renamed")
    base = base_from_run(second.path)
    assert inherited(base, others)[0].prior is None
    events = list(inherit(base, partition_base(base).record, drain(read(others)).record))
    assert [event.values["text"] for event in events] == [
        f"the old head is not used: what {second.path} or a run before it was trained on can "
        "no longer be read"
    ]
    assert inherited(base, tmp_path / "data-next", tuned=True)[0].leak is not None
    third = fit(others, base=second.path, preprocessing=None, out=tmp_path / "third")
    assert "learnt" not in load_file(third.path / "model" / "neighbours.safetensors")


def saved_again(source, target, quality=97):
    """The pictures of a folder as JPEG: other bytes, to the eye the same."""
    for path in source.rglob("*.png"):
        copy = target / path.parent.name / f"{path.stem}-again.jpg"
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(copy, quality=quality, subsampling=0)
    return target


def looked(base, data):
    """What a run passes on where its look is at hand."""
    collection = drain(read(data))
    extracted = drain(extract_features(collection, base))
    return drain(inherit(base, extracted.network.record, collection.record, extracted))


def test_pictures_that_were_saved_again_are_recognised(first, tmp_path):
    copies = saved_again(first.parent.parent / "colours", tmp_path / "copies")
    base = base_from_run(first)
    assert inherited(base, copies)[0].prior is not None  # no byte is the same
    assert looked(base, copies).prior is None
    others = fill(tmp_path / "others", COUNTS, seed=12)
    assert looked(base, others).prior is not None
    tuned = replace(
        base.record,
        recipe=Recipe(
            optimizer="adamw",
            lr=1e-4,
            batch_size=8,
            schedule="cosine",
        ),
    )
    leak = looked(replace(base, record=tuned), copies).leak
    assert leak.sentence == (
        f"{first} was trained on 30 of the 30 training images (the same or nearly the same "
        "picture): the metrics of this run are too optimistic"
    )
    assert looked(replace(base, record=tuned), others).leak is None


def test_a_run_on_pictures_that_were_saved_again_says_so(first, tmp_path):
    data = saved_again(first.parent.parent / "colours", tmp_path / "data-next")
    fill(data, COUNTS, seed=12)
    events = []
    run = follow_up(first, tmp_path, on_event=events.append)
    assert not any(name.endswith("+prior") for name in candidates(run))
    said = (
        f"the old head is not used: {first} was trained on 30 of these images (the same or nearly "
        "the same picture)"
    )
    assert said in [str(event.values.get("text")) for event in events]


def test_many_images_need_no_prior(first, tmp_path, monkeypatch):
    fill(tmp_path / "data", COUNTS, seed=5)
    monkeypatch.setattr(rules, "DUAL_LIMIT", 29)
    assert inherited(base_from_run(first), tmp_path / "data")[0].prior is None


def test_a_network_without_the_old_feature_layers_gives_no_prior(first, tmp_path):
    fill(tmp_path / "data", COUNTS, seed=5)
    base = base_from_run(first)
    record = drain(read(tmp_path / "data")).record
    other = cut(network(), PREP).record
    assert drain(inherit(base, other, record)).prior is None


def test_a_base_model_that_is_no_run_passes_nothing_on(tmp_path):
    fill(tmp_path / "data", COUNTS, seed=5)
    base = load(network(), preprocessing=PREP)
    record = drain(read(tmp_path / "data")).record
    result = drain(inherit(base, partition_base(base).record, record))
    assert (result.prior, result.leak) == (None, None)
    assert result.names(["last", "late"]) == ("last", "late")


def test_check_reports_the_leak_of_a_run_as_base_model(first, tmp_path, capsys):
    fill(tmp_path / "data" / "train", COUNTS, seed=5)
    shutil.copytree(first.parent.parent / "colours", tmp_path / "data" / "test")
    words = ["check", str(tmp_path / "data"), "--base", str(first), "--budget", "fast", "--json"]
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert [f["sentence"].split(": ")[1] for f in result["findings"] if f["kind"] == "leakage"] == [
        "the metrics of this run are too optimistic"
    ]


# ---- what cannot be a start -----------------------------------------------------------------


def damaged(tmp_path, first, name):
    copy = Path(shutil.copytree(first, tmp_path / name))
    if name == "none-shipped":
        shutil.rmtree(copy / "model")
    elif name == "interrupted":
        shutil.rmtree(copy / "model")
        (copy / "DONE").unlink()
        (copy / "INTERRUPTED").touch()
    elif name == "torn":
        (copy / "model" / "model.safetensors").write_bytes(b"\x10")
    elif name == "half":
        tensors = load_file(copy / "model" / "model.safetensors")
        tensors.pop("backbone.conv_stem.weight")
        save_file(tensors, copy / "model" / "model.safetensors")
    return copy


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


@pytest.mark.parametrize(
    ("base", "says"),
    [
        ("runs/nowhere", "runs/nowhere does not exist (runs is missing); name a folder that"),
        ("data", "data is not a finished run folder; name one that `warmstart fit` wrote"),
    ],
)
def test_what_is_no_run_folder_says_so(base, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "data", {"blue": 3, "red": 3})
    assert main(["fit", "data", "--base", base, "-q"]) == 2
    assert says in capsys.readouterr().err


def test_a_run_on_a_network_of_ones_own_needs_python(pictures, tmp_path):
    run = fit(pictures, out=tmp_path / "run")
    with pytest.raises(ModelError, match=r"began from your own network \(Convolutions\)"):
        base_from_run(run.path)


def test_a_run_knows_its_own_design(first):
    with pytest.raises(ModelError, match=r"--arch timm:resnet18: .* knows its own design"):
        base_from_run(first, "timm:resnet18")


def test_other_preprocessing_may_be_requested(first):
    grey = replace(PREP, size=(48, 48), resize=48)
    assert base_from_run(first, None, grey).record.preprocessing == grey
