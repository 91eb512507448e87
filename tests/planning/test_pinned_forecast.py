"""Forecasts, what --minutes cut, learning rates, schedules, pairs: of fixed data."""

from __future__ import annotations

from dataclasses import replace

import pytest

import golden
from plans import FACTS, a_choice, network, network_facts, pictures, refusal, texts
from warmstart.modalities.registry import MODALITIES
from warmstart.planning import (
    build,
    fine_tuning,
    learning_rates,
    machine,
    schedule,
    strategy,
)
from warmstart.planning import forecast as planning_forecast
from warmstart.planning.forecast import Load, Speeds, forecast
from warmstart.planning.machine import Machine
from warmstart.planning.settings import apply_settings
from warmstart.planning.strategy import parse
from warmstart.records.network import Recipe

SPEEDS = Speeds(
    elapsed=2.1,
    forward=0.011,
    setup=1.5,
    extracted=0.0063,
    decode=0.0041,
    step=0.31,
    augment=0.0023,
    algebra=0.0021,
    forward_mb=401.0,
    step_mb=150.7,
    threads=3,
)
LOAD = Load(
    n=300,
    n_test=80,
    n_missing=380,
    n_classes=4,
    holdout=0,
    width=2000,
    image_bytes=150_528,
    model_bytes=13_000_001,
    trained_share=0.3,
    cached_values=1234,
)
LOADS = {
    "usual": {},
    "controls": {"runs_controls": True, "n": 90},
    "many controls": {"runs_controls": True, "n": 4000},
    "extracted": {"n_missing": 0},
    "validation set": {"holdout": 70},
    "caches plain": {"caches_plain": True},
    "offloaded": {"is_streamed": True, "offload_bytes": 9_999_999},
    "small": {"image_bytes": 1000},
    "shared": {"n_sharing": 3},
    "many": {"n": 20_000, "cached_values": 99},
    "few": {"n": 30},
}


def forecast_of(plan, **more):
    found = forecast(plan, replace(LOAD, **more), SPEEDS)
    return [*found.seconds.values(), found.memory_mb, found.disk_mb]


def of_forecasts():
    plans = {word: pictures(word) for word in ("head", "last:1", "full", "scratch", "head+add")}
    plans["thorough"] = pictures("last:2", budget="thorough")
    plans["fast"] = pictures("last:2", budget="fast")
    plain = ["training.flip=false", "training.crop=1", "training.color_jitter=0"]
    plans["plain"] = apply_settings(pictures("last:1"), plain)
    plans["half"] = apply_settings(pictures("last:1"), ["training.cache_dtype=float16"])
    plans["one"] = apply_settings(pictures("full"), ["training.folds=1", "training.batch_size=7"])
    engine = replace(plans["last:1"].training, engine=a_choice("traced"))
    plans["traced"] = replace(plans["last:1"], training=engine)
    for varied in ("crop", "flip", "color_jitter", "time_shift", "spec_augment"):
        own = {"crop": a_choice(1.0), "flip": a_choice(False), "color_jitter": a_choice(0.0)}
        one = {"crop": a_choice(0.9), "flip": a_choice(True)}.get(varied, a_choice(0.1))
        of_one = replace(plans["last:1"].training, **(own | {varied: one}))
        plans[varied] = replace(plans["last:1"], training=of_one)
    found = {
        f"{name} {what}": forecast_of(plan, **more)
        for name, plan in plans.items()
        for what, more in LOADS.items()
        if what in ("usual", "caches plain")
        or name in ("head", "last:1", "full", "thorough", "traced")
    }
    return found, [*forecast(plans["full"], LOAD, SPEEDS).seconds]


def of_pairs_forecast():
    return [
        forecast_of(plan, n=n, trained_share=0.5)
        for plan, n in ((texts(48), 48), (texts(600), 600))
    ]


# ---- --minutes ---------------------------------------------------------------------------------


def work(plan):
    """Seconds of a plan where a thousand images seen take one."""
    training = plan.training
    if not plan.is_trained:
        return 1.0
    soup = training.model_soup.number if training.model_soup else 1
    return 1.0 + (training.folds.number + soup) * plan.samples_seen / 1000


def shown(plan):
    names = ("folds", "model_soup", "epochs", "ema_decay", "augmentations")
    chosen = {n: getattr(plan.training, n) for n in names}
    words = [f"{n} {c.value} ({c.source}, {c.rule}): {c.because}" for n, c in chosen.items() if c]
    return words, f"{plan.strategy.value}: {plan.strategy.because}"


def of_minutes():
    plans = {
        "last": pictures("last:1"),
        "thorough": pictures("last:2", budget="thorough"),
        "fast": pictures("full", budget="fast"),
        "ruled": pictures(verdict="fine-tune"),
        "own": apply_settings(pictures("last:1"), ["training.epochs=16.6667"]),
        "mine": apply_settings(pictures("last:1"), ["training.folds=4"]),
        "least": apply_settings(pictures("last:1"), ["training.batch_size=75"]),
        "small": apply_settings(pictures("last:1"), ["training.batch_size=74"]),
        "add": pictures("add"),
        "head": pictures("head"),
        "pairs": texts(600),
        "few": texts(48),
    }
    found = {}
    for name, plan in plans.items():
        for seconds in (0.5, 3.4, 5.0, 7.8, 10.0, 14.4, 20.0, 100.0):
            fitted = planning_forecast.fit_to_time(plan, seconds, work)
            if fitted != plan:
                given = planning_forecast.given_up(fitted), planning_forecast.time_ran_out(fitted)
                found[f"{name} {seconds:g}"] = *shown(fitted), *given
    bare = [
        replace(plans["last"], training=replace(plans["last"].training, **{name: None}))
        for name in ("folds", "epochs")
    ]
    # A plan that lacks one of these is for others to refuse.
    kept = [planning_forecast.fit_to_time(plan, 0.1, lambda plan: 1.0) == plan for plan in bare]
    lines = plans["thorough"], planning_forecast.fit_to_time(plans["thorough"], 6.0, work)
    return (
        found,
        kept,
        [planning_forecast.given_up(plan, MODALITIES["text"].nouns) for plan in lines],
    )


def of_augmentations_and_controls():
    plan = pictures("last:1")
    augmentations = replace(plan.training.augmentations, value=1, rule=4)
    offloaded = replace(plan.training, augmentations=augmentations, offload=a_choice("float32"))
    plan, found = replace(plan, training=offloaded), []
    for seconds in (100, 250, 350, 450, 1000):
        fitted = planning_forecast.fit_to_time(
            plan, seconds, lambda p: 90 * p.training.augmentations.number
        )
        chosen = fitted.training.augmentations
        found.append((chosen.value, chosen.because, chosen.source, chosen.rule))
    blocks = [replace(block, macs=10**9) for block in network().blocks]
    heavy = replace(network(), blocks=tuple(blocks))
    tried = [
        [planning_forecast.skips_controls(m, heavy, n) for m in (0.5, 4, 5, 7.8, 9)]
        for n in (1, 300, 9000)
    ]
    return (
        found,
        tried,
        fine_tuning.scratch_seconds(heavy, 1000),
        fine_tuning.scratch_seconds(network(), 10**9),
    )


# ---- learning rates, schedules -----------------------------------------------------------------


def of_learning_rates():
    recipes = [
        None,
        *(
            Recipe(optimizer=o, lr=r, batch_size=1, schedule="")
            for o, r in (
                ("sgd", 0.1234),
                ("AdamW", 0.005),
                ("lamb", 0.3),
            )
        ),
    ]
    base = [
        learning_rates.base_lr(family, optimizer, recipe)
        for family in ("convnet", "transformer", "mlp")
        for optimizer in ("adamw", "sgd")
        for recipe in recipes
    ]
    kinds = ("frozen", "tuned", "low-rank", "fresh", "tuned", "added", "replaced")
    spreads = [
        learning_rates.LearningRateSpread(base=b, decay=d, is_scratch=s, max_new=m)
        for b, d, s, m in (
            (0.001, 0.75, False, 0.003),
            (3e-5, 0.5, False, 0.003),
            (0.01, 1.0, False, 0.003),
            (0.002, 1.0, True, 0.01),
            (0.01, 0.9, False, float("inf")),
        )
    ]
    blocks = [learning_rates.block_lrs(kinds, spread) for spread in spreads]
    blocks += [
        learning_rates.block_lrs(a, spreads[0])
        for a in (
            ("frozen", "replaced"),
            ("frozen", "added", "replaced"),
            ("tuned", "frozen", "replaced"),
        )
    ]
    said_so = [[(c.value, c.because) if c else None for c in one] for one in blocks]
    values = (
        [learning_rates.layer_decay(n) for n in (1, 11, 12, 13, 24, 96)],
        [
            learning_rates.convert_lr(3e-4, a, b, s)
            for a in learning_rates.OPTIMIZERS
            for b in learning_rates.OPTIMIZERS
            for s in (False, True)
        ],
        [learning_rates.max_new_lr(o) for o in ("adamw", "sgd", "x")],
        learning_rates.block_lr(0.3, 3, 0.7),
        [learning_rates.choose_optimizer(recipe).because for recipe in recipes],
        [learning_rates.scratch_lr(o).value for o in learning_rates.OPTIMIZERS],
        learning_rates.round_lr(1234.5),
        [spread.factor(10.0) for spread in spreads],
    )
    return [(c.value, c.because) for c in base], said_so, values


def of_schedules():
    names = tuple(f"p{n}" for n in range(6))
    record = network(names)
    plans = {
        word: pictures(word, record=record)
        for word in (
            "last:2",
            "full+gradual",
            "last:3+gradual",
            "scratch",
            "full+lora",
            "gradual+add",
        )
    }
    plans["texts"], plans["few"] = texts(600), texts(48)
    plans["own"] = apply_settings(
        pictures("last:2", budget="thorough"),
        [
            "training.batch_size=7",
            "training.micro_batch=9",
            "training.epochs=0.3333",
            "training.gradient_checkpointing=true",
            "training.parallel=pipeline:2",
            "training.compile=true",
            "training.time_shift=0.25",
            "training.spec_augment=0.125",
            "training.workers=3",
        ],
    )
    later = "color_jitter augmentations split_at cache_dtype ema_decay l2_sp micro_batch"
    later += " gradient_checkpointing device precision workers"
    bare = dict.fromkeys(later.split())
    own = replace(plans["last:2"].training, **bare)
    plans["bare"] = replace(plans["last:2"], training=own)
    found = {name: schedule.schedule(plan) for name, plan in plans.items()}
    every = {f"{p.name}": "tuned" for p in record.blocks}
    stages = {name: schedule.stage_actions(one, every) for name, one in found.items()}
    shared = [
        schedule.for_fold(replace(found[name], batch_size=batch, micro_batch=micro), held, n)
        for name in ("last:2", "texts")
        for held, n in ((100, 600), (1, 600), (599, 600), (20, 48))
        for batch, micro in ((64, 64), (48, 0), (48, 8))
    ]
    alone = schedule.for_fold(replace(found["texts"], ema_decay=0.0), 100, 600)
    steps = [(s.n_steps, s.batch_size, s.micro_batch, s.ema_decay) for s in (*shared, alone)]
    short = [schedule.scaled_steps(n, s) for n, s in ((9, 0.5), (10, 0.05), (10, 0.25), (3, 1.0))]
    return found, stages, steps, short, [f.is_varied for f in found.values()]


def of_plans_as_followed():
    plan = pictures("full+gradual", record=network([f"p{n}" for n in range(6)]))
    added = pictures("full+add+gradual")
    made = [schedule.as_followed(plan, joined) for joined in range(5)]
    made += [schedule.as_followed(added, joined) for joined in (0, 1, 4)]
    made += [schedule.as_followed(pictures("last:2"), joined) for joined in (0, 1)]
    made += [schedule.given_up(added, "it was slow"), schedule.head_only(plan, "so")]
    return [
        (
            [(p.name, p.action.value, p.action.because, p.lr and p.lr.value) for p in one.blocks],
            one.strategy.value,
            one.strategy.because,
            one.strategy.rule,
        )
        for one in made
    ]


# ---- small rules -------------------------------------------------------------------------------


def of_machine():
    some = [Machine(), Machine(device="mps", threads=7), Machine(device="cuda", threads=1)]
    some += [Machine(device="cuda", threads=n, has_bfloat16=True) for n in (15, 16, 18, 40)]
    some += [Machine(device="mps", is_explicit=True), Machine(threads=64)]
    found = [(machine.device(m), machine.precision(m), machine.workers(m)) for m in some]
    return found, [machine.compiled(m, n) for m in some[:4] for n in (1999, 2000)]


def of_pipelines():
    some = [(10**9, 3 * 10**8, "adamw", 2), (10**9, 3 * 10**8, "sgd", 2), (7, 5, "other", 4)]
    kept = [
        machine.by_memory(*each, free)
        for each in some
        for free in (None, 0, 192, 7_599_999_999, 7_600_000_000, 6_999_999_999, 7 * 10**9)
    ]
    kept.append(machine.by_memory(225_000_000, 0, "sgd", 1, 50_000_000))  # 0.45 and 0.05 GB
    turns = [
        machine.pipeline_micro_batch(b, n)
        for b, n in ((32, 2), (30, 4), (7, 2), (1, 3), (16, 4), (12, 2))
    ]
    words = ("pipeline:1", "pipeline:0", "pipeline:12345", "pipeline:9999", "data", "fsdp", "x", 3)
    return (
        kept,
        turns,
        [
            (machine.n_stages(w), machine.is_parallel_mode(w), machine.parallel_mode(w))
            for w in words
        ],
        [machine.least_idle(n, n_micro) for n, n_micro in ((1, 4), (2, 8), (4, 16))],
    )


def of_caching():
    some = [(1000, 50), (16_000, 9000), (3000, 1500), (3000, 1000), (3001, 1000), (10, 0), (0, 5)]
    augmentations = [
        fine_tuning.choose_augmentations(p, n, b)
        for p, n in some
        for b in ("fast", "balanced", "thorough")
    ]
    sizes = [
        fine_tuning.cache_bytes(network(), cut, 7, 4, f)
        for cut in (1, 4)
        for f in fine_tuning.BYTES
    ]
    blocks = [replace(block, macs=10**9 * (n + 1)) for n, block in enumerate(network().blocks)]
    record = replace(network(), blocks=tuple(blocks))
    offloaded = [
        fine_tuning.offloaded_augmentations(record, cut, n)
        for cut in (1, 2, 4)
        for n in (9, 900, 9000)
    ]
    large = [replace(block, shape_out=(1000, 300)) for block in record.blocks]
    known = replace(network_facts(), record=replace(record, blocks=tuple(large)))
    found = []
    for space in (0, 1_500_000_000, 10**10):
        for n in (300, 600, 2000):
            facts, plan = replace(FACTS, n=n), pictures("last:2")
            training = replace(
                plan.training, split_at=None, cache_dtype=None, offload=a_choice("float32")
            )
            for one in (replace(training, offload=None), training):
                kept = fine_tuning.plan_cache(
                    replace(plan, training=one), replace(known, max_cache_bytes=space), facts
                ).training
                found.append((kept.split_at, kept.augmentations, kept.cache_dtype))
    return (
        augmentations,
        sizes,
        offloaded,
        [[(c.value, c.because, c.rule) for c in one] for one in found],
    )


def of_contrastive():
    lengths = (1, 63, 64, 65, 128, 256, 512, 9000)
    some = [(n, length) for n in (8, 16, 17, 48, 128, 129, 256, 600) for length in lengths]
    kinds = [("text", 48, 3), ("text", 49, 3), ("image", 9, 3)]
    return (
        [(fine_tuning.pair_batch(*each), fine_tuning.pair_samples(*each)) for each in some],
        [fine_tuning.pair_blocks(n) for n in (1, 2, 3, 12)],
        [
            fine_tuning.pair_ema_decay(p, b).value
            for p, b in ((64, 64), (65, 64), (2400, 64), (9, 1))
        ],
        [fine_tuning.updated_ema_decay(a_choice(v), 900, 30).value for v in (0.0, 0.5)],
        [build.are_few(*kind) for kind in kinds],
    )


def of_fine_tuning():
    spreads = [refusal(fine_tuning.lr_spread, pictures("head").training, parse("head"))]
    spreads += [fine_tuning.lr_spread(pictures(w).training, parse(w)) for w in ("full", "scratch")]
    ns = (1, 50, 99, 100, 101, 959, 960, 1919, 1920, 24_999, 25_000, 50_001, 90_000)
    return (
        spreads,
        [[fine_tuning.table_samples(n, s) for s in (False, True)] for n in ns],
        [fine_tuning.table_batch(n) for n in (0, 19_199, 19_200, 38_399, 38_400, 307_200)],
        [
            fine_tuning.choose_ema_decay(p, b).value
            for p, b in ((1, 0), (160, 8), (161, 8), (320, 16), (9, 1))
        ],
        [fine_tuning.allows_soup(parse(w)) for w in ("full", "scratch", "full+add", "head")],
        [
            fine_tuning.samples_from_scratch(n)
            for n in (1, 99, 100, 101, 133, 134, 799, 800, 801, 1600, 9000)
        ],
    )


def of_actions():
    names = ["a", "b", "c", "d"]
    some = [
        (w, f, t)
        for w in ("last:2", "full+lora", "scratch", "head")
        for f in ("", "a", "d")
        for t in ("", "b", "c")
    ]
    bodies = [
        strategy.body_actions(parse(w), names, frozenset(f), frozenset(t)) for w, f, t in some
    ]
    kinds = [(v, r) for v in (None, "fine-tune") for r in ("", "a", "c", "bd")]
    rule_strategy = [
        strategy.rule_strategy(v, names[:n], frozenset(r)).count
        for v, r in kinds
        for n in (1, 3, 4)
    ]
    taken = (["a"], ["added"], ["added", "added#2"], ["added#2"], ["added", "added#3"])
    return bodies, rule_strategy, [strategy.added_name(names) for names in taken]


SCENES = {
    name.removeprefix("of_"): make for name, make in globals().items() if name.startswith("of_")
}


@pytest.mark.parametrize("name", SCENES)
def test_nothing_changed_unnoticed(name, request):
    golden.check(__file__, name, SCENES[name](), request.config.getoption("--pin"))
