"""From a request to inputs and plan: --set over options, over a plan file, over rules."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch

from extraction import collect
from multiband_images import fill_bands
from plans import (
    ENGINE,
    FACTS,
    PREPROCESSING,
    PROFILES,
    a_choice,
    actions,
    apply_settings,
    network_facts,
    plan_for,
    rates,
    refusal,
    typed_request,
    with_block,
)
from tiny import PREP, network
from warmstart.errors import ModelError, PlanError
from warmstart.features import engine_choice
from warmstart.network.finished_run import partition_base
from warmstart.network.load import load
from warmstart.network.partition import cut
from warmstart.planning.fine_tuning import plan_cache
from warmstart.records.plan import Choice
from warmstart.run import plan as run_plan
from warmstart.run.base_model import open_base
from warmstart.run.plan import input_options

FACTS_OF_BASE = network_facts(preprocessing=PREPROCESSING)


def file_plan(
    strategy="last:2", settings=("training.epochs=1.6667", "training.batch_size=10"), **wishes
):
    """What a user kept: another seed and start, some values of their own."""
    plan = apply_settings(plan_for(strategy, seed=5, base="lite1", **wishes), settings)
    return plan_cache(plan, FACTS_OF_BASE, FACTS)


def made(facts=FACTS, **request):
    request = run_plan.with_plan(typed_request(data=None, **request))
    return run_plan.make_plan(request, facts, FACTS_OF_BASE, PROFILES, ENGINE)


def own_values(request):
    return request.base, request.arch, request.seed, request.budget


def values(plan):
    names = ("seed", "lr", "epochs", "batch_size")
    return {"base": plan.base.value} | {n: getattr(plan.training, n).value for n in names}


@pytest.mark.parametrize("given", [None, frozenset()])
def test_base_model_seed_and_budget_come_from_the_plan(given):
    plan = file_plan(budget="fast", arch="timm:resnet18")
    request = run_plan.with_plan(typed_request(data="photos", plan=plan, given=given))
    assert request.plan == plan
    assert own_values(request) == ("lite1", "timm:resnet18", 5, "fast")
    assert run_plan.engine_of(request) == plan.training.engine
    assert request.typed == frozenset()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"base": "lite0", "seed": 0}, ("lite1", "timm:resnet18", 5, "fast")),  # the defaults
        ({"base": "lite2", "seed": 9}, ("lite2", None, 9, "fast")),
        ({"arch": "timm:resnet34"}, ("lite1", "timm:resnet34", 5, "fast")),
        (
            {"base": "lite0", "seed": 0, "given": frozenset({"base", "seed", "budget"})},
            ("lite0", None, 0, "balanced"),
        ),
    ],
)
def test_what_was_typed_or_is_no_default_holds_against_the_file(options, expected):
    plan = file_plan(budget="fast", arch="timm:resnet18")
    request = typed_request(data="d", plan=plan, **options)
    assert own_values(run_plan.with_plan(request)) == expected
    module = network()
    assert run_plan.with_plan(typed_request(data="d", plan=plan, base=module)).base is module


def test_an_engine_that_is_none_or_not_installed_is_refused_unless_another_is_set(monkeypatch):
    monkeypatch.setattr(engine_choice, "installed_engines", lambda: ("torch", "traced"))
    plan = file_plan()
    for engine, says in (
        ("tpu", "tpu is not an engine"),
        ("openvino", "openvino is not installed"),
    ):
        far = replace(plan, training=replace(plan.training, engine=a_choice(engine)))
        with pytest.raises(PlanError, match=rf"plan's training.engine: {says}"):
            run_plan.with_plan(typed_request(data="d", plan=far))
        setting = f"training.engine={engine.upper()}"
        with pytest.raises(PlanError, match=rf"--set {setting}: {says}"):
            run_plan.with_plan(typed_request(data="d", settings=(setting,)))
        request = typed_request(data="d", plan=far, settings=("training.engine=traced",))
        taken = run_plan.engine_of(run_plan.with_plan(request))
        assert (taken.value, taken.source) == ("traced", "user")


def test_single_values_win_over_the_file_block_by_block():
    plan = file_plan("last:2")
    settings = ("block.top.lr=0.5", "block.1.action=tuned", "block.blocks.1.action=frozen")
    result = made(plan=plan, settings=settings)
    assert [*actions(result).values()] == ["tuned", "frozen", "frozen", "tuned", "replaced"]
    assert (rates(result)["top"], rates(result)["output"]) == (0.5, rates(plan)["output"])
    other = made(plan=with_block(plan, 0, action=a_choice("tuned")), strategy="last:1")
    assert [*actions(other).values()] == ["frozen"] * 3 + ["tuned", "replaced"]
    assert (other.strategy.value, other.strategy.source) == ("last:1", "user")
    assert other.training.epochs == plan.training.epochs


def test_a_base_model_that_was_ranked_or_is_ones_own_is_named():
    choice = a_choice("lite2", "measured")
    assert made(base="lite2", base_choice=choice).base == choice
    assert made(base=network()).base.value == "Convolutions"


OTHER = plan_for("last:1", network=network_facts(("stem", "layer1", "layer2", "top")))
ODD = replace(file_plan(), training=replace(file_plan().training, seed=a_choice(True)))


@pytest.mark.parametrize(
    ("facts", "request_", "says"),
    [
        (replace(FACTS, holdout=40), {}, "training.folds 5, and the validation set in your data"),
        (replace(FACTS, n=5000), {}, "'class-mean' in head.candidates"),
        (FACTS, {"plan": OTHER}, "made for another network: it has block layer1"),
        (FACTS, {"plan": ODD}, "training.seed must be a whole number from 0 to"),
        (FACTS, {"plan": None, "strategy": "last:9"}, "has 4 blocks"),
        (FACTS, {"plan": None, "settings": ("lr=0.1",)}, "did you mean training.lr?"),
    ],
)
def test_what_a_plan_data_or_network_do_not_allow_is_refused(facts, request_, says):
    plan = plan_for("last:1", replace(FACTS, smallest_class=4))
    result = refusal(lambda: made(facts, **{"plan": plan, **request_}))
    assert says in result
    assert "\n" not in result


@pytest.mark.parametrize(
    ("strategy", "stream", "n", "cut"),
    [
        ("last:1", "float32", 100, 1),
        ("last:2", "float32", 10**9, 2),
        ("full", "float16", 100, 0),
        ("auto", "float32", 100, 1),
        ("head", "float32", 10**9, 0),
        ("last:1", "", 100, 0),
    ],
)
def test_extraction_stores_what_unfrozen_blocks_begin_with(strategy, stream, n, cut):
    """Where they were typed, counted from the output; else for `last:1`, while that is little."""
    base = replace(load(network(), preprocessing=PREP), stream=stream)
    block = len(partition_base(base).record.blocks) - cut if cut else 0
    requests = [typed_request(data=None, strategy=strategy)]
    if cut and strategy.startswith("last"):
        requests.append(typed_request(data=None, plan=plan_for(strategy), given=frozenset()))
    assert {run_plan.stored_block(request, base, n) for request in requests} == {block}


def request_with(*settings, **more):
    return typed_request(data=None, settings=settings, **more)


@pytest.fixture
def photos(pictures):
    return collect(pictures)


@pytest.fixture
def fields(tmp_path):
    return collect(fill_bands(tmp_path / "fields", bands=5, n=4))


def test_pictures_ask_for_nothing_and_can_be_given_one_three_or_four_channels(photos):
    plain = input_options(request_with(), photos)
    assert (plain.channels, plain.size, plain.ranges, plain.image_channels) == (None, None, (), 3)
    for channels in range(6):
        request = request_with(f"input.channels={channels}")
        if channels in (1, 3, 4):
            assert input_options(request, photos).channels == channels
        else:
            says = f"channels={channels}: the images are pictures of 3 channels; leave it"
            assert says in refusal(input_options, request, photos)


@pytest.mark.parametrize("size", [15, 16, 1024, 1025])
def test_sizes_that_no_base_model_is_tried_with_are_refused_before_one_is_loaded(photos, size):
    says = refusal(input_options, request_with(f"input.size={size}"), photos)
    assert (says is None) == (size in (16, 1024))
    assert says is None or f"size={size}: sizes from 16 to 1024 px" in says


def test_bands_ask_for_as_many_channels_and_take_no_other_number(fields):
    wish = input_options(request_with(), fields)
    assert (wish.channels, wish.image_channels, len(wish.ranges)) == (5, 5, 5)
    assert input_options(request_with("input.channels=5"), fields).channels == 5
    with pytest.raises(PlanError, match=r"channels=3: the images have 5 bands; leave it out"):
        input_options(request_with("input.channels=3"), fields)


def test_a_network_for_bands_is_refused_for_pictures_and_taken_for_bands(photos, fields):
    kind = torch.nn.Conv2d(5, 4, 3)
    own = torch.nn.Sequential(kind, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    with pytest.raises(ModelError, match=r"^module:Sequential takes 5 bands, the images have 3; "):
        open_base(own, inputs=input_options(request_with(), photos))
    assert open_base(own, inputs=input_options(request_with(), fields)).changes == ()


def kept(*settings):
    """A plan with an input of its own."""
    yes = Choice(value=True, because="your choice (--set)", source="user")
    return replace(apply_settings(plan_for("last:1"), settings), partial=yes)


def test_a_plan_tells_the_input_of_its_own_base_model_alone(photos):
    plan = kept("input.size=96", "input.channels=1")
    own = input_options(request_with(plan=plan, given=frozenset()), photos)
    assert (own.size, own.channels, own.is_partial) == (96, 1, True)
    other = input_options(request_with(plan=plan, given=frozenset({"base"})), photos)
    assert (other.size, other.channels, other.is_partial) == (None, None, False)
    bands = request_with(plan=kept("input.channels=5"), given=frozenset())
    says = "the plan has input.channels 5, the images are pictures of 3 channels; make a new"
    assert says in refusal(input_options, bands, photos)


@pytest.mark.parametrize(
    ("request_", "is_tuned"),
    [
        (request_with(), False),
        (request_with(strategy="full"), True),
        (request_with(strategy="last:99"), False),
        (request_with("block.1.action=tuned", strategy="last:1"), True),
        (request_with("block.1.action=fresh", strategy="last:1"), True),
        (request_with("block.1.action=frozen", strategy="full"), False),
        (request_with("block.2.action=tuned", strategy="last:1"), False),
        (request_with(plan=kept(), given=frozenset()), False),
        (request_with("block.1.action=tuned", plan=kept(), given=frozenset()), True),
    ],
)
def test_the_first_block_may_be_set_by_its_number(photos, request_, is_tuned):
    assert input_options(request_, photos).is_tuned == is_tuned


def test_blocks_set_by_name_are_reported(photos):
    settings = ("block.first.action=tuned", "block.a.b.action=frozen", "block.a.lr=0.1")
    options = input_options(request_with(*settings, "block.1.action=tuned"), photos)
    assert options.tuned_blocks == (("first", True), ("a.b", False))


def facts_of(base, drawn):
    base = replace(base, random_tensors=frozenset(drawn))
    return run_plan.network_facts(
        request_with(), base, cut(base.module, base.record.preprocessing), None
    )


@pytest.mark.parametrize(
    ("drawn", "fresh", "partly_fresh"),
    [
        ((), set(), set()),
        (("first.bias",), set(), {"first"}),
        (("norm.running_mean",), set(), {"first"}),
        (("first.weight", "second.bias"), {"first"}, {"second"}),
        (("out.weight",), set(), set()),  # the old classifier
    ],
)
def test_a_block_is_fresh_where_most_of_it_is_new_and_partly_fresh_where_some_is(
    drawn, fresh, partly_fresh
):
    facts = facts_of(load(network(), preprocessing=PREP), drawn)
    assert (facts.fresh, facts.partly_fresh) == (fresh, partly_fresh)
    assert facts.random == fresh | partly_fresh


def test_a_random_neck_counts_as_the_last_block():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = timm.create_model("test_convnext", num_classes=5).eval()
    base = load(module, preprocessing=replace(PREP, size=(64, 64), resize=64))
    network_ = cut(base.module, base.record.preprocessing)
    assert network_.owners["head.norm.weight"] == "neck"
    last = network_.blocks[-1].name
    facts = facts_of(base, ["head.norm.bias"])
    assert (facts.fresh, facts.partly_fresh) == (frozenset(), {last})
    owned = [name for name, owner in network_.owners.items() if owner in (last, "neck")]
    assert facts_of(base, owned).fresh == {last}
    with pytest.raises(PlanError, match=f"block {last} would be frozen at random values"):
        plan_for("head", network=facts)
