"""Whole plans for options, data and networks of many kinds: every value, its reason, its source.

A few are kept whole; of the others the lines that one of them has not, each line once.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

import golden
from plans import (
    ENGINE,
    PREPROCESSING,
    TEXTS,
    a_choice,
    beside,
    lines,
    many,
    network,
    network_facts,
    pictures,
    plan_options,
    texts,
)
from warmstart.planning.build import build
from warmstart.planning.check import check_plan
from warmstart.planning.fine_tuning import plan_cache
from warmstart.planning.machine import Machine
from warmstart.planning.plan_file import read_plan, write_plan
from warmstart.planning.settings import apply_settings
from warmstart.records.inputs import ColumnRecord, Sound, TableInputs, WaveInputs
from warmstart.records.network import Recipe
from warmstart.records.plan import ColumnPlan

TABLE = TableInputs(columns=(ColumnRecord(name="age", kind="number"),))
CLIP = Sound(
    sample_rate=16_000,
    seconds=1.5,
    window=400,
    hop=160,
    mels=64,
    low=20.0,
    high=8000.0,
    range_db=80.0,
)
SOUND = replace(PREPROCESSING, mean=(0.5,), std=(0.5,), sound=CLIP)
WAVES = WaveInputs(sample_rate=16_000, seconds=0.5, is_scaled=True)


def of_bases():
    return write_plan(pictures()), write_plan(pictures("last:2"))


def of_strategies():
    words = (
        "head",
        "add",
        "last:1",
        "last:2+add",
        "frozen:3",
        "full",
        "full+lora",
        "gradual",
        "auto+lora",
        "auto+add",
        "frozen:4",
        "last:4",
        "last:3+gradual",
        "lora+add",
        "scratch",
    )
    return beside(pictures("last:2"), {text: pictures(text) for text in words})


def of_verdicts():
    kinds = (None, "linear-probe", "fine-tune", "no-transfer", "no-signal", "inconclusive")
    words = ("auto", "last:1")
    made = {f"{word} {kind}": pictures(word, kind) for kind in kinds for word in words}
    compared = {
        "compared": pictures(compares_fine_tuning=True),
        "own": pictures("head", compares_fine_tuning=True),
    }
    return beside(pictures("last:2"), made | compared)


def of_budgets():
    words = ("head", "last:1", "full+lora", "scratch")
    budgets = ("fast", "balanced", "thorough")
    made = {f"{word} {b}": pictures(word, budget=b) for word in words for b in budgets}
    return beside(pictures("last:2"), made)


def of_families():
    long = network([str(n) for n in range(24)], family="transformer")
    recipes = {
        "none": None,
        "sgd": Recipe(optimizer="SGD", lr=0.3, batch_size=256, schedule="cosine"),
        "adamw": Recipe(optimizer="adamw", lr=0.00123, batch_size=64, schedule="constant"),
        "rmsprop": Recipe(optimizer="rmsprop", lr=0.1, batch_size=256, schedule="cosine"),
    }
    made = {
        f"{family} {name}": pictures(word, family=family, recipe=recipe)
        for family in ("convnet", "transformer", "mlp")
        for name, recipe in recipes.items()
        for word in ("last:2+add",)
    }
    made["scratch sgd"] = pictures("scratch", recipe=recipes["sgd"])
    made["long"] = pictures("last:2", record=long)
    made["twelve"] = pictures("last:1", record=network([str(n) for n in range(12)]))
    return beside(pictures("last:2"), made)


def of_sizes():
    some = [many(n, smallest=s) for n, s in ((20, 5), (20, 6), (375, 30), (376, 30), (501, 40))]
    some += [many(n) for n in (100, 600, 601, 640, 1600, 2000, 2001, 20_000)]
    some += [many(120, groups=1, classes=4), many(119, groups=9, classes=4)]
    some += [many(116, task="regress"), many(3000, task="multilabel"), many(7, classes=1)]
    some += [many(300, holdout=60)]
    named = {f"{f.n} {f.n_groups} {f.task} {f.smallest_class}": f for f in some}
    made = {name: pictures("last:2", data=facts) for name, facts in named.items()}
    made |= {f"new {f.n}": pictures("scratch", data=f) for f in map(many, (20, 133, 134, 9000))}
    return beside(pictures("last:2"), made)


def of_inputs():
    """Other sizes, bands, sounds; what is no square."""
    small = replace(PREPROCESSING, size=(96, 96), mean=(0.5,), std=(0.5,))
    wide = replace(PREPROCESSING, size=(224, 320))
    bands = replace(PREPROCESSING, mean=(0.5,) * 5, std=(0.5,) * 5)
    made = {
        "small": pictures("last:2", preprocessing=small, base_inputs=PREPROCESSING),
        "wide": pictures("last:2", preprocessing=wide),
        "was wide": pictures("last:2", base_inputs=wide),
        "bands": pictures("last:2", preprocessing=bands, base_inputs=PREPROCESSING),
        "sound": pictures("last:2", preprocessing=SOUND, base_inputs=PREPROCESSING),
        "waves": pictures("last:2", preprocessing=WAVES),
        "unknown": pictures("last:2", preprocessing=None),
    }
    return beside(pictures("last:2"), made)


def of_texts():
    long = replace(TEXTS, length=60)
    short = replace(TEXTS, length=16)
    made = {
        "few": texts(48),
        "sixteen": texts(96),
        "more": texts(97),
        "whole": texts(128),
        "blocks": texts(129),
        "many": texts(600),
        "thorough": texts(600, budget="thorough"),
        "no pairs": texts(48, contrastive=False, strategy="last:1"),
        "lr": texts(48, lr=0.002),
        "pairs": texts(600, strategy="scratch", contrastive=True, lr=1e-4),
        "low-rank": texts(48, strategy="full+lora"),
        "two": texts(48, processes=2),
        "numbers": texts(48, task="regress"),
        "long": texts(200, inputs=long, base_inputs=TEXTS),
        "short": texts(200, inputs=short, base_inputs=TEXTS),
        "fresh": texts(48, fresh=frozenset({"layer.2"})),
        "head": texts(48, strategy="head"),
        "tokens": texts(40, inputs=replace(TEXTS, length=256, most=512)),
    }
    base = texts(150)
    return lines(base), beside(base, made)


def tables(n, strategy="auto", verdict="fine-tune", is_random=False, **more):
    column = ColumnPlan(name="age", kind=a_choice("number"))
    data = replace(many(n, **more), columns=(column,), kind="table")
    known = network_facts(
        ("one", "two"), family="mlp", preprocessing=TABLE, verdict=verdict, is_random=is_random
    )
    made = build(plan_options(strategy, "thorough"), data, known, ("last", "late"), ENGINE)
    return plan_cache(made, known, data)


def of_tables():
    made = {
        "drawn": tables(300, is_random=True),
        "head": tables(300, verdict="linear-probe"),
        "few": tables(50),
        "one more": tables(101, is_random=True),
        "many": tables(20_000),
        "most": tables(60_000),
        "typed": tables(300, "last:1"),
        "blocks": tables(300, groups=3),
        "held": tables(300, holdout=60),
        "auto": tables(300, "auto+add"),
        "a step": tables(1920),
        "less": tables(1919),
        "scratch": tables(960, "scratch"),
    }
    base = tables(300)
    return lines(base), beside(base, made)


def of_lost_weights():
    """Blocks at random values, in whole or in part, and blocks without low-rank layers."""
    some = frozenset({"blocks.1"})
    made = {
        f"{name} {word}": pictures(word, **{name: some})
        for name in ("fresh", "partly_fresh", "no_lora")
        for word in ("auto", "last:1", "full+lora", "scratch", "full+add")
    }
    stem, top = frozenset({"stem"}), frozenset({"top"})
    made["all"] = pictures("full+lora", fresh=some, partly_fresh=stem, no_lora=top)
    made["fine-tune"] = pictures("auto", "fine-tune", partly_fresh=top)
    made["thorough"] = pictures("full", budget="thorough", partly_fresh=top)
    return beside(pictures("last:2"), made)


def of_machines():
    quick = Machine(device="cuda", has_bfloat16=True, threads=9)
    made = {
        "cuda": pictures("last:2", machine=quick),
        "old": pictures("last:2", machine=Machine(device="cuda", threads=64)),
        "mps": pictures("last:2", machine=Machine(device="mps", threads=1)),
        "mine": pictures("last:2", machine=Machine(device="cpu", threads=4, is_explicit=True)),
        "steps": pictures("last:2", data=many(1600), budget="thorough", machine=quick),
        "long": pictures("scratch", data=many(100_000), budget="thorough", machine=quick),
    }
    for batch in (15, 17):
        long = replace(quick, threads=3)
        chosen = pictures("scratch", data=many(16_000), machine=long)
        made[f"batch {batch}"] = apply_settings(chosen, [f"training.batch_size={batch}"])
    return beside(pictures("last:2"), made)


SCENES = {
    name.removeprefix("of_"): make for name, make in globals().items() if name.startswith("of_")
}


@pytest.mark.parametrize("name", SCENES)
def test_nothing_changed_unnoticed(name, request):
    golden.check(__file__, name, SCENES[name](), request.config.getoption("--pin"))


@pytest.mark.parametrize("plan", [pictures("last:2"), pictures("full+lora"), pictures("scratch")])
def test_the_plans_of_this_file_are_sound_ones(plan):
    check_plan(plan, network())
    assert read_plan(write_plan(plan)) == plan
