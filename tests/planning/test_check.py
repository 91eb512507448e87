"""Plans that contradict themselves, the network or the data: each is named and has a cure."""

import re
from dataclasses import fields, replace

import pytest

from plans import (
    FACTS,
    HEADS,
    PREPROCESSING,
    PROFILES,
    a_choice,
    apply_settings,
    network,
    network_facts,
    plan_for,
    refusal,
    with_block,
)
from warmstart.planning.check import LIMITS, check_facts, check_plan, check_values
from warmstart.records.plan import TrainingPlan

HEAD, FULL, LAST = plan_for("head"), plan_for("full"), plan_for("last:2")
LORA, ADD, SCRATCH = plan_for("full+lora"), plan_for("add"), plan_for("scratch")


def training(plan=FULL, **values):
    """The plan with other training choices; None removes one."""
    made = {name: None if value is None else a_choice(value) for name, value in values.items()}
    return replace(plan, training=replace(plan.training, **made))


def head(**values):
    """The plan `head` with other choices for its head."""
    made = {name: a_choice(value) for name, value in values.items()}
    return replace(HEAD, head=replace(HEAD.head, **made))


def blocks(*order):
    """The plan `full` with its blocks picked by their places."""
    return replace(FULL, blocks=tuple(FULL.blocks[place] for place in order))


def action(plan, place, value):
    return with_block(plan, place, action=a_choice(value))


def named(plan, word):
    return replace(plan, strategy=a_choice(word))


# ---- values

# The ends of what may be, and values just beyond them or of another type.
ENDS = {
    "base": (("lite0",), (3,)),
    "arch": (("timm:x",), (True,)),
    "strategy": (("full",), (1.5,)),
    "partial": ((True,), ("yes", 1)),
    "training.batch_size": ((1,), (0, 8.5, "x", True, (8,))),
    "training.seed": ((0, 2**32 - 1), (-1, 2**32)),
    "training.optimizer": (("adamw", "sgd"), ("adam",)),
    "training.lr": ((1e-9, 5), (0.0, True, "fast", float("nan"), float("inf"), (1, 2))),
    "training.layer_decay": ((1e-9, 1), (0, 1.01)),
    "training.weight_decay": ((0,), (-1e-9,)),
    "training.epochs": ((1e-9, 1.5), (0, -1, True, "x", ())),
    "training.warmup": ((0, 1), (-0.01, 1.01)),
    "training.crop": ((0.01, 1.0), (0, 1.1)),
    "training.flip": ((True,), (0,)),
    "training.folds": ((1,), (0,)),
    "training.model_soup": ((1,), (0,)),
    "training.color_jitter": ((0, 0.99), (-0.1, 1)),
    "training.time_shift": ((0, 0.99), (-0.1, 1)),
    "training.spec_augment": ((0, 0.99), (-0.1, 1)),
    "training.augmentations": ((0, 64), (-1, 65)),
    "training.split_at": ((0,), (-1,)),
    "training.cache_dtype": (("float32", "float16"), ("int8",)),
    "training.offload": (("float32",), ("int8",)),
    "training.ema_decay": ((0, 0.99), (-0.1, 1)),
    "training.l2_sp": ((0,), (-1,)),
    "training.micro_batch": ((1,), (0,)),
    "training.parallel": (("data", "fsdp", "pipeline:2"), ("pipeline", "pipeline:0")),
    "training.contrastive": ((False,), (1,)),
    "training.contrastive_temperature": ((0, 10), (-0.1, 10.1)),
    "training.gradient_checkpointing": ((False,), ("no",)),
    "training.device": (("cpu", "cuda", "mps"), ("tpu",)),
    "training.precision": (("bfloat16",), ("int8",)),
    "training.workers": ((0, 64), (-1, 65)),
    "training.compile": ((True,), (1,)),
    "training.lora_rank": ((1, 256), (0, 257)),
    "head.outer_folds": ((1,), (0, "")),
    "head.permutations": ((1, 100_000), (0, 100_001)),
    "input.size": ((16,), (15, 0, 224.0)),
    "input.channels": ((1, 13), (0, 14)),
    "input.sample_rate": ((2000, 48_000), (1999, 48_001)),
    "input.seconds": ((0.05, 60), (0.04, 60.1)),
    "input.n_mels": ((8, 512), (7, 513)),
    "input.top_db": ((5, 200), (4.9, 201)),
}


@pytest.mark.parametrize(("path", "ends"), ENDS.items(), ids=ENDS)
def test_values_have_limits(path, ends):
    section, _, name = path.partition(".")
    for number, values in enumerate(ends):
        for value in values:
            choice = a_choice(value, "user")
            if name:
                choice = replace(getattr(FULL, section), **{name: choice})
            says = refusal(check_values, replace(FULL, **{section: choice}))
            if not number:
                assert says is None
            else:
                assert says.startswith(f"the plan's {path} must be ")
                assert says.endswith(
                    f", not {list(value) if value in ((), (1, 2), (8,)) else value!r}."
                )


def test_every_value_has_its_limits_tested():
    assert ENDS.keys() == LIMITS.keys()


def test_an_input_that_the_user_did_not_set_may_have_any_size():
    small = replace(FULL.input, size=a_choice(1), channels=a_choice(14))
    check_values(replace(FULL, input=small))


@pytest.mark.parametrize(
    ("rgb", "is_valid"),
    [
        *((valid, True) for valid in ((0, 1, 4), (4, 3, 2))),
        *((bad, False) for bad in ((0, 1), (0, 1, 2, 3), (0, 1, 5), (-1, 0, 1), (3, 3, 1))),
    ],
)
def test_colours_are_three_different_bands(rgb, is_valid):
    made = replace(FULL.input, channels=a_choice(5), rgb=a_choice(rgb))
    says = refusal(check_values, replace(FULL, input=made))
    assert says is None if is_valid else "three different bands from 0 to 4" in says


@pytest.mark.parametrize("plan", [HEAD, FULL, LORA, ADD, SCRATCH])
def test_values_of_plans_that_were_built_are_sound(plan):
    check_values(replace(plan, partial=a_choice(True), arch=a_choice("timm:resnet18")))


# ---- plans that contradict themselves, or the network

MORE = replace(FULL.blocks[3], name="more")
UNTRAINED = "nothing is trained step by step"
BAD = {
    "another block": (with_block(FULL, 2, name="x"), "has block x, lite0 has blocks.1 at place 3"),
    "another order": (blocks(1, 0, 2, 3, 4), "has block blocks.0, lite0 has stem at place 1"),
    "a block short": (blocks(0, 1, 2, 4), "has block output, lite0 has top at place 4"),
    "no blocks": (blocks(), "no blocks; make a new plan with --dry-run"),
    "few blocks": (blocks(0), "ends after 1 block, lite0 has blocks.0 at place 2"),
    "a block twice": (blocks(0, 0, 1, 2, 3, 4), "block stem 2 times; keep one"),
    "no head": (blocks(0, 1, 2, 3), "no block output, replaced, at its end; add it"),
    "a head that is kept": (action(FULL, 4, "tuned"), "no block output, replaced"),
    "a block too many": (
        replace(FULL, blocks=(*FULL.blocks[:4], MORE, FULL.blocks[4])),
        "block more, which lite0 does not have",
    ),
    "an unknown action": (action(FULL, 1, "thawed"), "block.blocks.0.action must be frozen, tuned"),
    "an action of a number": (action(FULL, 1, 3), "blocks.0.action must be frozen"),
    "a body block replaced": (action(FULL, 1, "replaced"), "a block of lite0 must be frozen"),
    "a body block added": (action(FULL, 3, "added"), "block top added; a block of lite0 must"),
    "a learning rate of 0": (with_block(FULL, 1, lr=a_choice(0.0)), "lr must be a number above 0"),
    "a learning rate of true": (with_block(FULL, 1, lr=a_choice(True)), "lr must be a number"),
    "a frozen block with a rate": (action(FULL, 0, "frozen"), "set block.stem.action=tuned"),
    "a tuned block without one": (with_block(FULL, 0, lr=None), "add --set block.stem.lr=0.001"),
    "a head without one": (with_block(FULL, 4, lr=None), "add --set block.output.lr=0.001"),
    "low-rank without a rank": (training(LORA, lora_rank=None), "add --set training.lora_rank=8"),
    "added under another name": (with_block(ADD, 4, name="X"), "layers X; here they are called"),
    "low-rank and gradual": (named(LORA, "full+gradual"), "set those blocks to tuned"),
    "one gradual block": (named(plan_for("last:1"), "last:1+gradual"), "at least two"),
    "no gradual block": (named(ADD, "full+gradual"), "and no tuned block; gradual needs"),
    "one left of two": (
        apply_settings(named(LAST, "last:2+gradual"), ["block.top.action=frozen"]),
        r"strategy last:2\+gradual and 1 tuned block; gradual needs at least two",
    ),
    "a strategy that is none": (named(FULL, "fulll"), "did you mean full"),
    "an unresolved strategy": (named(FULL, "auto+add"), "is not resolved; name a depth"),
    "not a step": (training(epochs=15 / 300), "is not one step; set training.epochs higher"),
    "no penalty": (head(penalties=()), "nothing in head.penalties; name at least one"),
    "a penalty of 0": (head(penalties=(0.1, 0.0)), "head.penalties must be numbers above 0"),
    "no candidate": (head(candidates=()), "nothing in head.candidates; name at least one"),
    "scratch over weights": (action(SCRATCH, 1, "tuned"), "block blocks.0 tuned, and in scratch"),
    "trains nothing": (named(HEAD, "last:2"), f"last:2, and {UNTRAINED}: .*; write strategy head"),
    "scratch of nothing": (named(HEAD, "scratch"), f"scratch, and {UNTRAINED}"),
    "nothing added": (named(HEAD, "head+add"), UNTRAINED),
    "frozen too little": (named(HEAD, "frozen:3"), UNTRAINED),
    "idle training": (replace(HEAD, training=FULL.training), f"optimizer, and {UNTRAINED}"),
    "idle augmentations": (training(HEAD, augmentations=4), f"augmentations, and {UNTRAINED}"),
    "a head alone": (with_block(HEAD, 4, lr=a_choice(0.1)), "rate for block output, and nothing"),
    "a deep split": (training(LAST, split_at=3), "first 2 blocks are frozen.*split_at=2"),
    "a split of nothing": (training(split_at=1, augmentations=4), "only the first 0 blocks"),
    "cached new ones": (training(LAST, augmentations=0), "new every epoch cannot be cached"),
    "a soup of new": (training(ADD, model_soup=3), "new blocks are initialised at random"),
    "a soup of fresh": (training(SCRATCH, model_soup=2), "new blocks are initialised at random"),
    "a soup of updates": (training(LORA, model_soup=3), "low-rank updates are not averaged"),
    "a soup of pairs": (training(LAST, model_soup=3, contrastive=True), "learn from pairs; --set"),
    "a gradual soup": (training(plan_for("gradual"), model_soup=3), "unfrozen one after the other"),
    "shared offload": (training(parallel="fsdp", offload="float32"), "leave out --parallel"),
    "piped offload": (training(parallel="pipeline:2", offload="float32"), "leave out --parallel"),
}


@pytest.mark.parametrize(("plan", "says"), BAD.values(), ids=BAD.keys())
def test_a_bad_plan_is_named_with_its_cure(plan, says):
    message = refusal(check_plan, plan, network())
    assert re.search(says, message)
    assert message.startswith("the plan")
    assert "\n" not in message


def test_a_trained_plan_lacks_nothing_but_what_is_optional():
    optional = {"model_soup", "lora_rank", "parallel", "offload", "time_shift", "spec_augment"}
    optional |= {"contrastive", "contrastive_temperature"}
    for field in fields(TrainingPlan):
        if field.name in ("engine", "batch_size", "seed"):
            continue
        says = refusal(check_plan, training(**{field.name: None}), network())
        if field.name in optional:
            assert says is None
        else:
            assert f"trains blocks without training.{field.name}; make a new plan" in says


SOUND = [
    apply_settings(FULL, settings)
    for settings in (
        ["block.top.action=frozen"],
        ["block.stem.action=fresh", "block.1.lr=1"],
        ["block.blocks.0.action=frozen", "block.stem.action=fresh"],
        ["block.2.action=low-rank", "training.lora_rank=4"],
        ["input.channels=13", "input.rgb=12,0,5", "input.size=16"],
    )
]
SOUND += [named(HEAD, word) for word in ("head", "frozen:4", "frozen:9")]
SOUND += [training(LAST, split_at=1), training(LAST, lora_rank=4), training(LAST, model_soup=2)]
SOUND += [training(ADD, model_soup=1), training(parallel="data", offload="float32")]
SOUND += [training(epochs=16 / 300), training(HEAD, offload="float32")]
AGAIN = replace(ADD.blocks[4], name="added#2")
SOUND += [replace(ADD, blocks=(*ADD.blocks[:5], AGAIN, ADD.blocks[5]))]


@pytest.mark.parametrize("plan", SOUND, ids=range(len(SOUND)))
def test_other_plans_can_be_followed(plan):
    check_plan(plan, network())


# ---- plans that the data or the weights do not allow

KNOWN = network_facts()
NUMBERS, HELD = replace(FACTS, task="regress"), replace(FACTS, holdout=60)
FEW, MANY = replace(FACTS, n=60, n_groups=6), replace(FACTS, n=2001)
MEAN, STACK = head(candidates=("class-mean",)), head(candidates=("last", "late", "stack"))
PAIRS = training(contrastive=True, batch_size=16, micro_batch=16)
RANDOM = network_facts(
    fresh=frozenset({"top"}), partly_fresh=frozenset({"stem"}), preprocessing=PREPROCESSING
)
REFUSED = {
    "another head": ((head(candidates=("last", "x")), FACTS, KNOWN), "'x' .* 300 images there are"),
    "a stack of classes": ((STACK, FACTS, KNOWN), "'stack' in head.candidates"),
    "one before it": (
        (head(candidates=("last", "stack")), NUMBERS, KNOWN),
        "name two depths first",
    ),
    "a class of numbers": ((MEAN, NUMBERS, KNOWN), "there are stack, last"),
    "all pairs of many": ((MEAN, MANY, KNOWN), "2,001 images there are last"),
    "a stack of many": ((STACK, replace(MANY, task="regress"), KNOWN), "'stack' in head.candid"),
    "a validation set": ((HEAD, HELD, KNOWN), "is the only fold; --set head.outer_folds=1"),
    "trained on it": (
        (replace(LAST, head=head(outer_folds=1).head), HELD, KNOWN),
        "training.folds=1",
    ),
    "no validation set": ((head(outer_folds=1), FACTS, KNOWN), "no validation set; .*folds=10"),
    "few groups": ((head(outer_folds=7), FEW, KNOWN), "form 6 independent groups; .*outer_folds=5"),
    "few to train": ((training(folds=7), FEW, KNOWN), "--set training.folds=5"),
    "fresh": ((LAST, FACTS, RANDOM), "block stem frozen, .*--set block.stem.action=tuned trains"),
    "low-rank": ((LORA, FACTS, RANDOM), "block stem low-rank, and it would stay at random"),
    "no layer": ((LORA, FACTS, network_facts(no_lora=frozenset({"top"}))), "tuned, or frozen"),
    "pairs of numbers": ((PAIRS, NUMBERS, KNOWN), "the task has no classes"),
    "new pairs": ((action(PAIRS, 0, "fresh"), FACTS, KNOWN), "block stem is new"),
    "gradual pairs": ((named(PAIRS, "full+gradual"), FACTS, KNOWN), "validates the head while"),
    "a pair": ((training(PAIRS, batch_size=2, micro_batch=2), FACTS, KNOWN), "2 of a batch of 2"),
    "two texts": ((PAIRS, replace(FACTS, n=2, n_groups=2), KNOWN), "a batch of 16"),
    "in parts": ((training(PAIRS, micro_batch=15), FACTS, KNOWN), "is 15 of a batch of 16"),
}


@pytest.mark.parametrize(("case", "says"), REFUSED.values(), ids=REFUSED)
def test_what_data_or_weights_do_not_allow_is_refused(case, says):
    message = refusal(check_facts, *case, HEADS)
    assert re.search(says, message)
    assert message.startswith(("the plan has", "training.contrastive"))


@pytest.mark.parametrize(
    "case",
    [
        (MEAN, replace(FACTS, n=2000), KNOWN),
        (head(candidates=("late",)), MANY, KNOWN),
        (STACK, NUMBERS, KNOWN),
        (head(outer_folds=1), HELD, KNOWN),
        (head(outer_folds=6), FEW, KNOWN),
        (FULL, FACTS, network_facts(partly_fresh=frozenset({"stem"}))),
        (training(plan_for("full", NUMBERS), contrastive=False), NUMBERS, KNOWN),
        (training(PAIRS, batch_size=3, micro_batch=3), FACTS, KNOWN),
        (training(PAIRS, micro_batch=None), FACTS, KNOWN),
        (plan_for("full+lora", network=RANDOM), FACTS, RANDOM),
    ],
)
def test_what_data_and_weights_allow_passes(case):
    check_facts(*case, HEADS)


def test_the_head_of_the_base_model_may_be_left_out_of_a_candidate():
    check_facts(head(candidates=("late",)), FACTS, KNOWN, ("last+prior", "late+prior"))
    assert refusal(check_facts, head(candidates=("grid-late",)), FACTS, KNOWN, PROFILES)
