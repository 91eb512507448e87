"""What changes a plan: options, settings, a plan's file, several processes. Each value, its reason.

Of every plan the lines that the plan beside it has not.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

import golden
from plans import (
    ENGINE,
    FACTS,
    HEADS,
    PREPROCESSING,
    beside,
    network,
    network_facts,
    pictures,
    plan_options,
    texts,
)
from warmstart.planning.build import build
from warmstart.planning.fine_tuning import plan_cache
from warmstart.planning.machine import Machine, with_parallel
from warmstart.planning.plan_file import options_for, overlay
from warmstart.planning.settings import apply_settings
from warmstart.records.network import Recipe


def of_processes():
    """The memory is known; three quarters of a network of four blocks are trained."""
    blocks = tuple(replace(block, parameters=10**8) for block in network().blocks)
    record = replace(network(), blocks=blocks)
    need = 3 * (2 * 16 * 10**8 + 6 * 12 * 10**8)
    tried = {
        "less": ("last:3", 3, need - 1),
        "enough": ("last:3", 3, need),
        "one": ("full", 1, 0),
        "unknown": ("full", 2, None),
        "head": ("head", 2, 0),
        "scratch": ("scratch", 2, 1),
        "low-rank": ("full+lora", 2, 1),
        "none": ("full", 4, 0),
    }
    made = {
        name: with_parallel(pictures(word), record, n, free)
        for name, (word, n, free) in tried.items()
    }
    sgd = Recipe(optimizer="sgd", lr=0.3, batch_size=256, schedule="cosine")
    made["sgd"] = with_parallel(pictures("full", recipe=sgd), record, 2, 123_456_789)
    half = pictures("full", machine=Machine(device="cuda"))
    made["half"] = with_parallel(half, record, 2, 0)
    stages = ["training.parallel=pipeline:3", "training.batch_size=36"]
    made["stages"] = with_parallel(apply_settings(pictures("full"), stages), record, 3, 0)
    bases = {word: pictures(word) for word in ("full", "last:3")}
    kinds = {name: "last:3" if name in ("less", "enough") else "full" for name in made}
    return {
        word: beside(base, {name: made[name] for name, kind in kinds.items() if kind == word})
        for word, base in bases.items()
    }


def of_options():
    explicit = {"base", "seed", "strategy"}
    made = {
        "lr": pictures("last:2", lr=0.0123),
        "lr and add": pictures("last:2+add", lr=0.002),
        "lr of scratch": pictures("scratch", lr=0.002),
        "base": pictures("last:2", base="timm:x", arch="timm:y", seed=7, explicit=explicit),
        "seed": pictures("last:2", seed=7),
    }
    return beside(pictures("last:2"), made)


SETTINGS = {
    "values": ("training.lr=0.02", "block.top.lr=0.5", "training.layer_decay=0.5"),
    "steps": ("training.epochs=3.3333", "training.batch_size=7"),
    "augmentations": ("training.augmentations=2",),
    "less": ("training.epochs=1.6667",),
    "live": ("training.augmentations=0",),
    "split": ("training.split_at=1",),
    "sgd": ("training.optimizer=sgd",),
    "own": ("training.optimizer=sgd", "training.lr=1"),
    "mild": ("training.optimizer=SGD", "training.weight_decay=0.3"),
    "blocks": ("block.1.action=tuned", "block.top.action=frozen"),
    "new": ("block.blocks.0.action=fresh",),
    "low": ("block.top.action=low-rank", "training.lora_rank=4"),
    "raised": ("block.stem.lr=0.1", "block.stem.action=tuned", "block.output.lr=3"),
    "micro": ("training.micro_batch=3", "training.batch_size=24"),
    "data": ("training.parallel=data",),
    "heads": ("head.candidates=last,late", "head.penalties=1, .5", "head.outer_folds=3"),
    "bands": ("input.size=64", "input.channels=5", "input.rgb=4,0,1"),
    "many": ("training.parallel=pipeline:4", "training.batch_size=30"),
}


def of_settings():
    base = pictures("last:2")
    made = {name: apply_settings(base, some) for name, some in SETTINGS.items()}
    made["twice"] = apply_settings(made["values"], ["training.lr=0.04", "training.epochs=3"])
    scratch = apply_settings(pictures("scratch"), ["training.optimizer=sgd"])
    paired = ["training.epochs=2.1333", "training.batch_size=32"]
    settled = {
        name: plan_cache(plan, network_facts(preprocessing=PREPROCESSING), FACTS)
        for name, plan in (made | {"scratch": scratch}).items()
    }
    return beside(base, settled), beside(texts(600), {"": apply_settings(texts(600), paired)})


def of_overlays():
    """Options beside a plan's file."""
    known = network_facts(preprocessing=PREPROCESSING)
    own = ["training.epochs=23.3333", "block.top.lr=0.5", "training.ema_decay=0.5"]
    files = {
        "head": pictures("head", budget="fast", seed=5),
        "last:2": apply_settings(pictures("last:2", budget="thorough", seed=5), own),
        "lora": pictures("lora", budget="fast", seed=5),
        "scratch": pictures("scratch"),
    }
    old = replace(
        files["last:2"].training,
        ema_decay=None,
        micro_batch=None,
        augmentations=None,
        cache_dtype=None,
    )
    files["old"] = replace(files["last:2"], training=old)
    quick = Machine(device="cuda", has_bfloat16=True, threads=8, is_explicit=True)
    typed = {
        "nothing": ({}, ()),
        "strategy": ({"strategy": "last:1"}, {"strategy"}),
        "add": ({"strategy": "full+add"}, {"strategy"}),
        "lr": ({"lr": 0.02}, {"lr"}),
        "thorough": ({"budget": "thorough"}, {"budget"}),
        "fast": ({"budget": "fast"}, {"budget"}),
        "base": ({"base": "timm:x", "arch": "timm:y", "seed": 9}, {"base", "arch", "seed"}),
        "device": ({"machine": quick}, {"device"}),
        "both": ({"strategy": "last:3", "budget": "thorough"}, {"strategy", "budget"}),
    }
    found = {}
    for name, file in files.items():
        for what, (options, explicit) in typed.items():
            if (name, what) == ("head", "lr"):
                continue
            chosen = plan_options(**options, explicit=explicit)
            laid = overlay(
                build(options_for(file, chosen), FACTS, known, HEADS, ENGINE), file, chosen.explicit
            )
            found.setdefault(name, {})[what] = plan_cache(laid, known, FACTS)
    return {name: beside(files[name], plans) for name, plans in found.items()}


SCENES = {
    name.removeprefix("of_"): make for name, make in globals().items() if name.startswith("of_")
}


@pytest.mark.parametrize("name", SCENES)
def test_nothing_changed_unnoticed(name, request):
    golden.check(__file__, name, SCENES[name](), request.config.getoption("--pin"))
