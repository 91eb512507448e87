"""Ranking starts, and `--base auto`: over tiny networks in place of those on disk."""

from __future__ import annotations

import gc
import shutil
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

from hue_images import fill
from tiny import PREP, Convolutions, network
from warmstart.data.read import read
from warmstart.errors import ModelError, UsageError
from warmstart.events import drain, follow
from warmstart.network.finished_run import FinishedRunModel
from warmstart.network.inputs import InputOptions
from warmstart.network.load import load
from warmstart.network.registry import ModelListing
from warmstart.run import base_model


class Blind(Convolutions):
    """Sees the noise of a picture, never its colours."""

    def forward(self, x):
        return super().forward(torch.zeros_like(x) + 1e-3 * (x - x.mean((2, 3), keepdim=True)))


class Broken(nn.Module):
    """Its weights are numbers, what it gives is none."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2)
        self.out = nn.Linear(8, 5)

    def forward(self, x):
        return self.out((self.first(x) / 0.0).mean((2, 3)))


def blind():
    torch.manual_seed(0)
    return Blind().eval()


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
    assert "twin (" in result.because
    assert result.because.endswith("times the work) ties with it: the difference could be chance")


def test_of_those_that_tie_the_one_with_the_least_work_is_taken(disk, pictures):
    result = rank(pictures, "small", "layers")
    works = {base.name: base.macs for base in result.models}
    assert result.ties
    assert works[result.choice] == min(works.values())


def test_seconds_say_whether_anything_was_passed(disk, pictures):
    first, again = rank(pictures, "small"), rank(pictures, "small")
    assert not first.models[0].cached
    assert first.models[0].seconds_per_image > 0
    assert again.models[0].cached
    assert again.models[0].seconds_per_image is None
    assert first.models[0].value == again.models[0].value
    assert first.because.endswith("no other base model was tried")


def test_a_base_model_that_fails_is_listed_and_the_others_go_on(disk, pictures):
    events = []
    result = rank(pictures, "nowhere", "broken", "small", "small", events=events)
    assert [base.name for base in result.models] == ["small"]
    assert [each.name for each in result.failed] == ["nowhere", "broken"]
    assert "values that are not numbers" in result.failed[1].error
    texts = [str(e.values["text"]) for e in events if e.kind == "note"]
    assert texts[0] == "3 base models on 36 images: 108 forward passes at most"
    assert "nowhere: base model 'nowhere' is not known" in texts


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


def test_if_all_fail_the_first_error_is_raised(disk, pictures):
    with pytest.raises(ModelError, match="nowhere"):
        rank(pictures, "nowhere", "broken")


def test_the_test_set_is_not_read(disk, split_pictures, pictures):
    shutil.rmtree(split_pictures / "test" / "red")
    with_test = rank(split_pictures, "small", "blind")
    assert with_test.n == 36
    alone = rank(split_pictures / "train", "small", "blind")
    assert [s.value for s in with_test.models] == [s.value for s in alone.models]


def test_a_held_out_set_judges_alone(disk, tmp_path):
    fill(tmp_path / "photos" / "train", {"blue": 10, "green": 10, "red": 10})
    fill(tmp_path / "photos" / "val", {"blue": 4, "green": 4, "red": 4}, seed=1)
    result = rank(tmp_path / "photos", "small", "blind")
    assert (result.n, result.method) == (12, "holdout")


def test_images_that_cannot_be_read_count_for_no_base_model(disk, pictures):
    (pictures / "red" / "000.png").write_bytes(b"nothing")
    result = rank(pictures, "small", "blind")
    assert result.n == 35


def test_files_of_weights_carry_their_design_behind_an_at():
    assert base_model.split_name("a.pt@torchvision:resnet18") == ("a.pt", "torchvision:resnet18")
    assert base_model.split_name("me@home.pt") == ("me@home.pt", None)


def test_the_smallest_on_disk_are_extracted_and_the_others_named(monkeypatch, tmp_path):
    weights = tmp_path / "weights"
    weights.write_bytes(bytes(4 * 5000))
    result = [
        ModelListing(name=f"n{size}", title="", parameters=size, size_px=None, where="")
        for size in (9000, 1000, 8000, 2000, 7000, 3000)
    ]
    unknown = ModelListing(name="file", title="", parameters=None, size_px=None, where=str(weights))
    monkeypatch.setattr(base_model, "available_models", lambda: (*result, unknown))
    assert base_model.on_disk() == (
        ("n1000", "n2000", "n3000", "file", "n7000", "n8000"),
        ("n9000",),
    )
    assert base_model.on_disk(2500) == (
        ("n1000", "n2000"),
        ("n3000", "file", "n7000", "n8000", "n9000"),
    )


def test_auto_takes_the_winner_and_the_plan_says_why(disk, monkeypatch, pictures, tmp_path):
    import warmstart

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


def test_with_one_base_model_on_disk_nothing_is_ranked(disk, monkeypatch, pictures, tmp_path):
    import warmstart

    listed(monkeypatch, "small")
    run = warmstart.fit(pictures, base="auto", budget="fast", out=tmp_path / "run")
    assert (run.plan.base.value, run.plan.base.source) == ("small", "rule")
    assert "only base model" in run.plan.base.because
    assert [name for name, _ in disk] == ["small"]


def test_a_run_is_opened_and_changed_for_other_inputs(finished):
    base = base_model.open_base(finished.path)
    assert isinstance(base, FinishedRunModel)
    grey = base_model.open_base(str(finished.path), inputs=InputOptions(channels=1))
    assert isinstance(grey, FinishedRunModel)
    assert grey.record.preprocessing.channels == 1
    assert [change.tensor for change in grey.changes] == ["conv_stem.weight"]
    assert base_model.open_base(network(), preprocessing=PREP).record.title == "Convolutions"


def test_a_large_network_is_never_ranked_by_default(disk, monkeypatch, pictures, tmp_path):
    listed(monkeypatch, "small", parameters=base_model.MAX_PARAMETERS + 1)
    assert base_model.on_disk(base_model.MAX_PARAMETERS) == ((), ("small",))


@pytest.mark.parametrize(
    ("options", "says"),
    [({"arch": "timm:resnet18"}, "--arch"), ({"preprocessing": PREP}, "preprocessing belongs")],
)
def test_what_belongs_to_one_base_model_is_refused_with_auto(options, says, pictures, tmp_path):
    import warmstart

    with pytest.raises(UsageError, match=says):
        warmstart.fit(pictures, base="auto", out=tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
