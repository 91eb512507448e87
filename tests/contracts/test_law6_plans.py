"""Law 6: no "auto" is left in a plan, and a plan that is replayed gives the same run."""

from __future__ import annotations

import tomllib

import pytest
from networks import KINDS, cut_once
from test_runs import same_run, values_of

import warmstart
from hue_images import fill
from plans import ENGINE, FACTS
from tiny import ARCH, PREP, bytes_of, fit, network, weights
from warmstart.errors import PlanError
from warmstart.network.feature_layers import feature_layers
from warmstart.planning.build import build
from warmstart.planning.check import LEAST_SIZE, check_facts, check_plan
from warmstart.planning.facts import NetworkFacts
from warmstart.planning.fine_tuning import plan_cache
from warmstart.planning.plan_file import read_plan, write_plan
from warmstart.planning.rules import probe_layers
from warmstart.planning.strategy import PlanOptions, parse
from warmstart.records.plan import Choice

NETWORKS = ("resnet18", "vit_tiny", "mlp", "residual", "tied", "wandering")
WORDS = (
    "auto",
    "auto+add",
    "head",
    "last:1",
    "frozen:0",
    "full",
    "full+gradual",
    "head+add",
    "full+lora",
    "scratch",
)
SETTINGS = {"training.epochs": 1.0667, "training.batch_size": 8}


# ---- nothing is left to be decided -------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("verdict", [None, "fine-tune", "inconclusive"])
def test_a_plan_of_any_strategy_is_settled_sound_and_survives_its_file(name, verdict):
    _, cut = cut_once(name)
    prep = KINDS[name].inputs if KINDS[name].inputs.resize >= LEAST_SIZE else None
    facts = NetworkFacts(record=cut.record, verdict=verdict, preprocessing=prep)
    names = tuple(probe_layers(feature_layers(cut.record)))
    for strategy in WORDS:
        if "gradual" in strategy and len(cut.record.blocks) < 2:
            continue  # one layer has none to join it; refused in tests/planning/test_strategy.py
        given = frozenset({"strategy"} if strategy != "auto" else ())
        wishes = PlanOptions(
            base="x", strategy=parse(strategy), budget="balanced", seed=1, explicit=given
        )
        plan = plan_cache(build(wishes, FACTS, facts, names, ENGINE), facts, FACTS)
        check_plan(plan, cut.record)
        check_facts(plan, FACTS, facts, names)
        text = write_plan(plan)
        assert "auto" not in values_of(tomllib.loads(text)), strategy
        assert read_plan(text) == plan


def test_auto_is_no_value_of_a_choice():
    """Nor of one in a file: tests/planning/test_plan_file.py."""
    with pytest.raises(PlanError, match='the plan has "auto"; write the value itself'):
        Choice(value="auto", because="so", source="rule")


# ---- the same again ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("law6") / "split"
    fill(root / "train", {"blue": 10, "green": 10, "red": 10})
    fill(root / "test", {"blue": 3, "green": 3, "red": 3}, seed=1)
    return root


def test_a_plan_knows_its_own_base_model(data, tmp_path):
    """A file of weights and its design come from the plan; single values are the user's own."""
    one = fit(
        data,
        base=weights(tmp_path),
        arch=ARCH,
        strategy="last:1",
        lr=0.001,
        settings={**SETTINGS, "block.1.action": "tuned", "training.flip": False},
        seed=2,
        out=tmp_path / "one" / "split",
    )
    again = warmstart.fit(
        data, preprocessing=PREP, plan=one.path / "plan.toml", out=tmp_path / "again" / "split"
    )
    same_run(one, again)
    assert [block.action.value for block in again.plan.blocks[:2]] == ["tuned", "frozen"]


def test_a_change_of_the_plan_changes_the_run_and_nothing_else_in_the_plan(data, tmp_path):
    one = fit(data, strategy="last:1", settings=SETTINGS, out=tmp_path / "one" / "split")
    text = (one.path / "plan.toml").read_text()
    assert text.count("value = 1.0667\n") == 1
    head, rest = text.split("[training.epochs]\n")
    edited = tmp_path / "edited.toml"
    edited.write_text(
        head + "[training.epochs]\n" + rest.replace("value = 1.0667", "value = 1.6", 1)
    )
    other = warmstart.fit(
        data, base=network(), preprocessing=PREP, plan=edited, out=tmp_path / "two" / "split"
    )
    assert other.plan.training.epochs.value == 1.6
    assert bytes_of(one.path / "model") != bytes_of(other.path / "model")
    ours, theirs = (
        values_of(tomllib.loads((r.path / "plan.toml").read_text())) for r in (one, other)
    )
    assert sum(a != b for a, b in zip(ours, theirs, strict=True)) == 1
