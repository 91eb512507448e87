"""What the inputs are to be: settings over plans, plans over files, what contradicts is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import timm
import torch

from extraction import collect
from multiband_images import fill_bands
from plans import PREPROCESSING, network_facts, plan_for
from tiny import PREP, network
from warmstart.errors import ModelError, PlanError
from warmstart.network.load import load
from warmstart.network.partition import cut
from warmstart.planning.settings import apply_settings
from warmstart.records.plan import Choice
from warmstart.request import Request
from warmstart.run import plan as run_plan
from warmstart.run.base_model import open_base
from warmstart.run.plan import input_options, is_partial


def request_with(*settings, **more):
    return Request(data=None, settings=settings, **more)


@pytest.fixture
def photos(pictures):
    return collect(pictures)


@pytest.fixture
def fields(tmp_path):
    return collect(fill_bands(tmp_path / "fields", bands=5, n=4))


# ---- channels ----------------------------------------------------------------------------


def test_pictures_ask_for_nothing_and_can_be_given_one_three_or_four_channels(photos):
    plain = input_options(request_with(), photos)
    assert (plain.channels, plain.size, plain.ranges, plain.image_channels) == (None, None, (), 3)
    for channels in (1, 3, 4):
        assert (
            input_options(request_with(f"input.channels={channels}"), photos).channels == channels
        )


@pytest.mark.parametrize("channels", [0, 2, 5, 13])
def test_pictures_have_no_other_number_of_channels(photos, channels):
    says = rf"^--set input\.channels={channels}: the images are pictures of 3 channels; leave it"
    with pytest.raises(PlanError, match=says):
        input_options(request_with(f"input.channels={channels}"), photos)


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


@pytest.mark.parametrize("size", [0, 15, 1025, 9999])
def test_sizes_that_no_base_model_is_tried_with_are_refused_before_one_is_loaded(photos, size):
    with pytest.raises(PlanError, match=rf"size={size}: sizes from 16 to 1024 px are supported\.$"):
        input_options(request_with(f"input.size={size}"), photos)
    assert input_options(request_with("input.size=1024"), photos).size == 1024


# ---- a plan beside what was typed --------------------------------------------------------


def kept(*settings):
    """A plan with an input of its own."""
    yes = Choice(value=True, because="your choice (--set)", source="user")
    return replace(apply_settings(plan_for("last:1"), settings), partial=yes)


def test_a_plan_tells_the_input_of_its_own_base_model_alone(photos):
    plan = kept("input.size=96", "input.channels=1")
    own = input_options(request_with(plan=plan, given=frozenset()), photos)
    assert (own.size, own.channels, own.is_partial) == (96, 1, True)
    typed = request_with(plan=plan, given=frozenset({"base"}))
    other = input_options(typed, photos)
    assert (other.size, other.channels, other.is_partial) == (None, None, False)
    assert not is_partial(typed)


def test_a_plan_for_bands_is_refused_for_pictures(photos):
    plan = kept("input.channels=5")
    says = r"^the plan has input\.channels 5, the images are pictures of 3 channels; make a new"
    with pytest.raises(PlanError, match=says):
        input_options(request_with(plan=plan, given=frozenset()), photos)


# ---- whether the first layer learns ------------------------------------------------------


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


def test_sets_set_by_name_are_reported(photos):
    wish = input_options(
        request_with(
            "block.first.action=tuned",
            "block.a.b.action=frozen",
            "block.a.lr=0.1",
            "block.1.action=tuned",
        ),
        photos,
    )
    assert wish.tuned_blocks == (("first", True), ("a.b", False))


@pytest.mark.parametrize("name", ["1", "first"])
def test_new_channels_begin_at_zero_where_the_first_block_is_set_to_learn(fields, name):
    request = request_with(f"block.{name}.action=tuned", strategy="last:1")
    base = open_base(network(), None, PREP, input_options(request, fields))
    assert (base.module.first.weight[:, 3:] == 0).all()


# ---- what a plan is told of the start ----------------------------------------------------


def facts_of(base, drawn):
    base = replace(base, random_tensors=frozenset(drawn))
    return run_plan.network_facts(
        request_with(), base, cut(base.module, base.record.preprocessing), None
    )


def test_a_block_is_fresh_where_most_of_it_is_new_and_partly_fresh_where_some_is():
    base = load(network(), preprocessing=PREP)
    blocks = [block.name for block in cut(base.module, PREP).blocks]
    assert blocks == ["first", "second"]
    for drawn, fresh, partly_fresh in (
        ((), set(), set()),
        (("first.bias",), set(), {"first"}),
        (("norm.running_mean",), set(), {"first"}),
        (("first.weight", "second.bias"), {"first"}, {"second"}),
        (("out.weight",), set(), set()),  # the old classifier
    ):
        facts = facts_of(base, drawn)
        assert (facts.fresh, facts.partly_fresh, facts.random) == (
            fresh,
            partly_fresh,
            fresh | partly_fresh,
        )


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


def test_what_surgery_computed_is_not_random(fields):
    base = load(network(), preprocessing=PREP, inputs=input_options(request_with(), fields))
    network_ = cut(base.module, base.record.preprocessing)
    facts = run_plan.network_facts(request_with(), base, network_, None)
    assert facts.random == frozenset()
    assert (facts.preprocessing.channels, facts.base_inputs) == (5, PREP)
    plan = plan_for(
        network=network_facts(preprocessing=facts.preprocessing, base_inputs=PREPROCESSING)
    )
    assert (plan.input.channels.value, plan.input.channels.rule) == (5, 3)
