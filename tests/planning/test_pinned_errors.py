"""Errors for plans, settings and files that cannot be followed, in full."""

from __future__ import annotations

from dataclasses import replace

import pytest

import golden
from plans import (
    FACTS,
    HEADS,
    PREPROCESSING,
    a_choice,
    network,
    network_facts,
    pictures,
    plan_for,
    refusal,
    with_block,
)
from warmstart.planning.check import check_facts, check_plan, check_values, items, value_at
from warmstart.planning.plan_file import read_plan, write_plan
from warmstart.planning.schedule import schedule
from warmstart.planning.settings import (
    PATHS,
    apply_settings,
    check_path,
    is_early,
    parse_settings,
    parse_value,
)

FULL, LAST, HEAD = pictures("full"), pictures("last:2"), pictures("head")
SOUNDS = {
    "sample_rate": a_choice(16_000),
    "seconds": a_choice(1.0),
    "n_mels": a_choice(64),
    "top_db": a_choice(80.0),
}
CLIPS = replace(FULL, input=replace(FULL.input, **SOUNDS))


def training(plan=FULL, **values):
    """The plan with other training choices; None takes one away."""
    made = {name: None if value is None else a_choice(value) for name, value in values.items()}
    return replace(plan, training=replace(plan.training, **made))


def inputs(source="user", **values):
    made = {name: a_choice(value, source) for name, value in values.items()}
    return replace(FULL, input=replace(FULL.input, **made))


def head(**values):
    made = {name: a_choice(value) for name, value in values.items()}
    return replace(HEAD, head=replace(HEAD.head, **made))


# Values at the ends of what may be, just beyond them, and of other types.
VALUES = {
    "training.batch_size": (0, 1),
    "training.seed": (-1, 0, 2**32 - 1, 2**32),
    "training.lr": (0.0, 1e-9, 5),
    "training.layer_decay": (0, 1, 1.01),
    "training.weight_decay": (-1e-9, 0),
    "training.epochs": (0, True),
    "training.warmup": (-0.01, 0, 1, 1.01),
    "training.crop": (0, 1.0, 1.1),
    "training.folds": (0, 1),
    "training.model_soup": (0, 1),
    "training.color_jitter": (-0.1, 0, 0.99, 1),
    "training.time_shift": (-0.1, 0, 1),
    "training.spec_augment": (-0.1, 0, 1),
    "training.augmentations": (-1, 64, 65),
    "training.split_at": (-1, 0),
    "training.ema_decay": (-0.1, 0, 1),
    "training.l2_sp": (-1, 0),
    "training.micro_batch": (0, 1),
    "training.contrastive_temperature": (-0.1, 0, 10, 10.1),
    "training.workers": (-1, 0, 64, 65),
    "training.lora_rank": (0, 1, 256, 257),
    "training.optimizer": ("adam", "sgd"),
    "training.cache_dtype": ("int8", "float16"),
    "training.offload": ("int8", "float32"),
    "training.parallel": ("pipeline", "pipeline:2"),
    "training.device": ("tpu", "mps"),
    "training.precision": ("int8", "bfloat16"),
    "training.flip": (0, True),
    "training.contrastive": (1, False),
    "training.gradient_checkpointing": ("no", False),
    "training.compile": (1, True),
    "head.outer_folds": (0, 1),
    "head.permutations": (0, 1, 100_000, 100_001),
    "input.size": (0, 15, 16),
    "input.channels": (0, 1, 13, 14),
    "input.sample_rate": (1999, 2000, 48_000, 48_001),
    "input.seconds": (0.04, 0.05, 60, 60.1),
    "input.n_mels": (7, 8, 512, 513),
    "input.top_db": (4.9, 5, 200, 201),
}


def of_values():
    found = {}
    for path, values in VALUES.items():
        section, name = path.split(".")
        for value in (*values, float("nan"), (1, 2)):
            for source in ("user", "rule"):
                record = replace(getattr(CLIPS, section), **{name: a_choice(value, source)})
                refused = refusal(check_values, replace(CLIPS, **{section: record}))
                if refused or value in values:
                    found[f"{path} {value!r} {source}"] = refused
    return {f"{key}": value for key, value in found.items() if "rule" not in key or value}


def of_lists():
    some = [head(penalties=p) for p in ((0.1, -1.0), (), 0, (True,), (float("inf"),))]
    some += [head(candidates=()), replace(FULL, blocks=()), replace(FULL, base=a_choice(3))]
    some += [
        inputs(channels=c, rgb=rgb)
        for c, rgb in (
            (5, (0, 1, 4)),
            (5, (0, 1, 5)),
            (5, (0, 1, 1)),
            (5, (0, 1)),
            (5, (0, 1, 2, 3)),
            (5, (-1, 0, 1)),
            (3, (2, 1, 0)),
            (5, ("a", 1, 2)),
        )
    ]
    some += [with_block(FULL, 1, action=a_choice(a)) for a in ("thawed", 3)]
    some += [with_block(FULL, 1, lr=a_choice(r)) for r in (0.0, -1, "x", 1e-9)]
    kept = items(a_choice((1, 2))), items(a_choice(3)), value_at(FULL, "training.batch_size")
    return [refusal(check_values, plan) for plan in some], kept, value_at(HEAD, "training.lr")


def of_blocks():
    """Plans whose blocks contradict each other, or the network."""
    added = pictures("add")
    again = replace(added.blocks[4], name="added#2")
    some = {
        "name": with_block(FULL, 2, name="x"),
        "short": replace(FULL, blocks=FULL.blocks[:2]),
        "twice": replace(FULL, blocks=(FULL.blocks[0], *FULL.blocks)),
        "no head": replace(FULL, blocks=FULL.blocks[:4]),
        "kept head": with_block(FULL, 4, action=a_choice("tuned")),
        "more": replace(
            FULL, blocks=(*FULL.blocks[:4], replace(FULL.blocks[0], name="y"), FULL.blocks[4])
        ),
        "added": with_block(added, 4, name="z"),
        "added twice": replace(added, blocks=(*added.blocks[:5], again, added.blocks[5])),
        "replaced": with_block(FULL, 1, action=a_choice("replaced")),
        "added body": with_block(FULL, 0, action=a_choice("added")),
        "no lr": with_block(FULL, 0, lr=None),
        "no head lr": with_block(FULL, 4, lr=None),
        "frozen lr": with_block(FULL, 3, action=a_choice("frozen")),
    }
    return {name: refusal(check_plan, plan, network()) for name, plan in some.items()}


def of_training():
    lora, added = pictures("full+lora"), pictures("add")
    offload = {"offload": "float32"}
    some = {
        "no rank": training(lora, lora_rank=None),
        "rank alone": training(LAST, lora_rank=4),
        "split": training(LAST, split_at=3),
        "less": training(LAST, split_at=1),
        "new": training(split_at=0),
        "augmentations": training(LAST, augmentations=0),
        "a step": training(LAST, epochs=16 / 300, batch_size=16),
        "no step": training(LAST, epochs=15 / 300, batch_size=16),
        "soup": training(LAST, model_soup=2),
        "one soup": training(added, model_soup=1),
        "new soup": training(added, model_soup=3),
        "low soup": training(lora, model_soup=3),
        "paired soup": training(LAST, model_soup=3, contrastive=True),
        "gradual soup": training(pictures("gradual"), model_soup=3),
        "scratch soup": training(pictures("scratch"), model_soup=2),
        "fsdp": training(parallel="fsdp", **offload),
        "data": training(parallel="data", **offload),
        "pipeline": training(parallel="pipeline:2", **offload),
        "offload": training(**offload),
    }
    lacking = "optimizer lr layer_decay weight_decay epochs warmup crop flip folds color_jitter"
    lacking += (
        " augmentations split_at cache_dtype ema_decay l2_sp micro_batch gradient_checkpointing"
    )
    lacking += " device precision workers compile"
    some |= {f"lacks {name}": training(**{name: None}) for name in lacking.split()}
    found = {name: refusal(check_plan, plan, network()) for name, plan in some.items()}
    bare = [training(epochs=None), training(flip=None), training(crop="x"), training(crop=(1, 2))]
    return found, [refusal(schedule, plan) for plan in bare]


def of_words():
    """A strategy that the blocks contradict."""
    lora, added, offload = pictures("full+lora"), pictures("add"), {"offload": "float32"}
    some = {
        "head and training": replace(HEAD, training=FULL.training),
        "head and lr": with_block(HEAD, 4, lr=a_choice(0.1)),
        "head and offload": training(HEAD, **offload),
        "head and augmentations": training(HEAD, augmentations=4),
        "scratch": with_block(pictures("scratch"), 1, action=a_choice("tuned")),
        "low gradual": replace(lora, strategy=a_choice("full+gradual")),
        "one gradual": replace(pictures("last:1"), strategy=a_choice("last:1+gradual")),
        "none gradual": replace(added, strategy=a_choice("full+gradual")),
    }
    words = (
        "last:2",
        "scratch",
        "head+add",
        "frozen:4",
        "frozen:3",
        "frozen:9",
        "full+lora",
        "hed",
        "auto+add",
    )
    some |= {f"head as {word}": replace(HEAD, strategy=a_choice(word)) for word in words}
    return {name: refusal(check_plan, plan, network()) for name, plan in some.items()}


def of_facts():
    """Plans that these weights, or tasks without classes, do not allow."""
    some, fresh = frozenset({"stem"}), {"fresh": frozenset({"top"})}
    known, random = network_facts(), network_facts(partly_fresh=some, no_lora=some, **fresh)
    two, numbers = replace(FACTS, n=2, n_groups=2), replace(FACTS, task="regress")
    paired = training(contrastive=True, batch_size=16, micro_batch=16)
    new = with_block(paired, 1, action=a_choice("fresh"))
    tried = {
        "numbers": (paired, numbers, known),
        "new": (new, FACTS, known),
        "gradual": (replace(paired, strategy=a_choice("full+gradual")), FACTS, known),
        "two": (training(contrastive=True, batch_size=2, micro_batch=2), FACTS, known),
        "three": (training(contrastive=True, batch_size=3, micro_batch=3), FACTS, known),
        "less": (training(contrastive=True, batch_size=16, micro_batch=15), FACTS, known),
        "all": (training(contrastive=True, batch_size=16, micro_batch=None), FACTS, known),
        "a pair": (paired, two, known),
        "unpaired": (training(contrastive=False), numbers, known),
        "frozen": (LAST, FACTS, random),
        "tuned": (FULL, FACTS, random),
        "low": (pictures("full+lora"), FACTS, random),
        "bare": (pictures("full+lora"), FACTS, network_facts(no_lora=some)),
    }
    return {name: refusal(check_facts, *each, HEADS) for name, each in tried.items()}


def of_heads_and_folds():
    known, late = network_facts(), ("last", "late", "stack")
    held, few = replace(FACTS, holdout=60), replace(FACTS, n=60, n_groups=6)
    numbers, many = replace(FACTS, task="regress"), replace(FACTS, n=2001)
    once, six = head(outer_folds=1), head(outer_folds=6)
    tried = {
        "mean": (head(candidates=("class-mean", "late+prior")), replace(FACTS, n=2000)),
        "many": (head(candidates=("class-mean",)), many),
        "logistic": (head(candidates=("logistic",)), numbers),
        "stack": (head(candidates=late), numbers),
        "first": (head(candidates=late[1:]), numbers),
        "stacked many": (head(candidates=late), replace(numbers, n=2001)),
        "held": (HEAD, held),
        "held once": (once, held),
        "not held": (once, FACTS),
        "held training": (replace(LAST, head=once.head), held),
        "six": (six, few),
        "seven": (head(outer_folds=7), few),
        "trained": (replace(training(folds=6), head=six.head), few),
        "trained more": (training(folds=7), few),
        "five": (training(folds=4), replace(few, n_groups=3)),
    }
    names = (*HEADS, "late+prior")
    return {name: refusal(check_facts, *each, known, names) for name, each in tried.items()}


# ---- --set, files, options ---------------------------------------------------------------------

SETTINGS = (
    "training.epochs",
    "=3",
    "training.epochs=",
    "training.epochs=auto",
    "training.epochs=x",
    "training.epochs=1.5",
    "training.epochs=+8",
    "training.epochs=1e3",
    "training.lr=1e-3",
    "training.lr=1e999",
    "training.lr=nan",
    "training.lr=.5",
    "training.lr=5.",
    "training.flip=yes",
    "training.flip=TRUE",
    "head.penalties=0.1,x",
    "head.penalties=0.1",
    "input.rgb=1,2.5,3",
    "head.candidates=last,",
    "training.seed=3",
    "base=lite0",
    "arch=x",
    "strategy=full",
    "head.permutations=9",
    "lr=1",
    "epochs=3",
    "batch_size=8",
    "training.lr=1",
    "training.pases=1",
    "rank=3",
    "zzz=1",
    "batch=4",
    "training.lora_rank=4",
    "input.size=96",
    "block.stem=1",
    "block.top.size=1",
    "block..lr=1",
    "block.0.lr=1",
    "block.5.lr=1",
    "block.4.lr=0.5",
    "block.stam.lr=1",
    "block.zzz.lr=1",
    "block.output.action=tuned",
    "block.stem.action=replaced",
    "block.stem.action=added",
    "block.stem.action=tunned",
    "block.stem.action=zzz",
    "block.stem.action=frozen",
    "block.stem.lr=fast",
    "block.4.action=frozen",
    "block.output.lr=0.2",
    "block.0000000001.lr=1",
    "block.².lr=1",
)


def of_settings():
    plans = {
        "last": LAST,
        "head": HEAD,
        "add": pictures("add"),
        "no input": plan_for("last:1", network=network_facts()),
    }
    found = {
        f"{name} {setting}": refusal(apply_settings, plan, [setting])
        for name, plan in plans.items()
        for setting in SETTINGS
        if name == "last"
        or setting.startswith(("block.a", "block.5", "input", "training.lora_rank"))
    }
    pairs = [
        ["lr=1", "lr=2"],
        ["training.batch_size=4", " training.batch_size = 5"],
        ["block.3.lr=1", "block.blocks.1.lr=2"],
        ["block.added.action=tuned"],
        ["block.3.action=frozen", "block.4.action=frozen"],
    ]
    twice = [refusal(apply_settings, plan, pair) for plan in (LAST, plans["add"]) for pair in pairs]
    return found, twice


def of_paths():
    texts = ("3", "-2", "1e2", "0.25", "true", "Word", "a, B", "1,2", "", "1,", "9" * 18, "9" * 19)
    kinds = dict.fromkeys(PATHS.values())
    found = {
        f"{kind} {text}": refusal(parse_value, "p", text, kind) or parse_value("p", text, kind)
        for kind in kinds
        for text in texts
    }
    early = [is_early(p) for p in ("column.x", "columns", "training.engine", "training.lr")]
    bad = ("training.engine", "engine", "input.sizee", "EMA", "seed", "head.zzz", "training.lr")
    paths = [refusal(check_path, path, "1") for path in bad]
    return found, early, paths, parse_settings(["a=b=c", " d = e "])


def of_files():
    text = write_plan(LAST)
    first = 'value = "lite0"'
    changed = {
        "format": text.replace("format = 1", "format = 2"),
        "a word": text.replace("format = 1", 'format = "1"'),
        "no format": text.replace("format = 1\n", ""),
        "truth": text.replace("= 1\n", "= true\n", 1),
        "unknown": text.replace("[training.batch_size]", "[training.bach]"),
        "odd": text.replace("[training.batch_size]", "[training.zzzzzz]"),
        "no value": text.replace(first, ""),
        "list": text.replace(first, "value = [1, [2]]"),
        "date": text.replace(first, "value = 2020-01-01"),
        "auto": text.replace(first, 'value = "auto"'),
        "large": text.replace(first, f"value = {2**63}"),
        "most": text.replace(first, f"value = {2**63 - 1}"),
        "least": text.replace(first, f"value = {-(2**63)}"),
        "endless": text.replace(first, "value = inf"),
        "source": text.replace('source = "rule"', 'source = "me"', 1),
        "long": text.replace('source = "rule"', f'source = "{"x" * 39}"', 1),
        "just": text.replace('source = "rule"', f'source = "{"x" * 38}"', 1),
        "reason": text.replace('because = "shipped with warmstart"', 'because = ""'),
        "number": text.replace('because = "shipped with warmstart"', "because = 3"),
        "key": text.replace(first, first + "\nvalu = 3"),
        "far": text.replace(first, first + "\nxyz = 3"),
        "no training": text[: text.index("[training.engine]")],
        "empty": "",
        "base": "base = 3",
        "block": "block = 3\n" + text.split("[[block]]")[0],
        "blocks": "block = [3]\n" + text.split("[[block]]")[0],
        "head": "head = 3",
        "no name": text.replace('name = "stem"\n', ""),
    }
    return {name: refusal(read_plan, one) for name, one in changed.items()}


def of_options():
    short = network(["only"])
    lost = {"fresh": frozenset({"blocks.1"})}
    tried = {
        "lr": {"lr": 0.1},
        "lr 0": {"strategy": "full", "lr": 0.0},
        "lr below": {"strategy": "full", "lr": -1.0},
        "lr inf": {"strategy": "full", "lr": float("inf")},
        "deep": {"strategy": "last:5"},
        "frozen": {"strategy": "frozen:5", "base": "timm:x"},
        "lost": {"strategy": "head", **lost},
        "touched": {"strategy": "head", "partly_fresh": frozenset({"stem"})},
        "bare": {"strategy": "last:1+lora", "no_lora": frozenset({"top"})},
        "bares": {"strategy": "last:2+lora", "no_lora": frozenset({"top", "blocks.1"})},
        "one": {"strategy": "last:2", "record": short},
        "one gradual": {"strategy": "gradual", "record": short},
        "auto gradual": {"strategy": "auto+gradual", "record": short},
    }
    found = {name: refusal(lambda more: pictures(**more), more) for name, more in tried.items()}
    for layout in ("other", "NCL", "NCDHW", "NLC"):
        blocks = (*network().blocks[:3], replace(network().blocks[3], layout=layout))
        known = network_facts(preprocessing=PREPROCESSING)
        known = replace(known, record=replace(network(), blocks=blocks))
        found[layout] = refusal(lambda facts: plan_for("add", network=facts), known)
    return found


SCENES = {
    name.removeprefix("of_"): make for name, make in globals().items() if name.startswith("of_")
}


@pytest.mark.parametrize("name", SCENES)
def test_nothing_changed_unnoticed(name, request):
    golden.check(__file__, name, SCENES[name](), request.config.getoption("--pin"))
