"""Plans that contradict themselves, the network or the data: each is named and has a cure."""

from dataclasses import replace

import pytest

from plans import (
    FACTS,
    PREPROCESSING,
    PROFILES,
    a_choice,
    network,
    network_facts,
    plan_for,
    refusal,
    with_block,
)
from warmstart.errors import PlanError
from warmstart.planning.check import check_facts, check_plan, check_values
from warmstart.planning.settings import apply_settings

HEAD = plan_for("head")
FULL = plan_for("full")
LORA = plan_for("full+lora")


def training(**values):
    """The plan `full` with other training choices; None takes one away."""
    made = {name: None if value is None else a_choice(value) for name, value in values.items()}
    return replace(FULL, training=replace(FULL.training, **made))


def inputs(**values):
    """The plan `full` with another input, as a user would set it."""
    made = {name: a_choice(value, "user") for name, value in values.items()}
    return replace(FULL, input=replace(FULL.input, **made))


def head(**values):
    """The plan `head` with other choices for its head."""
    made = {name: a_choice(value) for name, value in values.items()}
    return replace(HEAD, head=replace(HEAD.head, **made))


def blocks(*order, of=FULL):
    """The plan with its blocks picked by their places."""
    return replace(of, blocks=tuple(of.blocks[place] for place in order))


BAD = {
    "another block": (with_block(FULL, 2, name="blocks.7"), "made for another network: it has"),
    "another order": (blocks(1, 0, 2, 3, 4), "it has block blocks.0, lite0 has stem at place 1;"),
    "a block short": (blocks(0, 1, 2, 4), "it has block output, lite0 has top at place 4; make"),
    "no blocks": (blocks(), "the plan has no blocks; make a new plan with --dry-run to compare."),
    "few blocks": (blocks(0), "it ends after 1 block, lite0 has blocks.0 at place 2; make a new"),
    "a block twice": (blocks(0, 0, 1, 2, 3, 4), "the plan has block stem 2 times; keep one."),
    "no head": (blocks(0, 1, 2, 3), "no block output, replaced, at its end; add it."),
    "a head that is kept": (with_block(FULL, 4, action=a_choice("tuned")), "no block output,"),
    "a block too many": (
        replace(
            FULL, blocks=(*FULL.blocks[:4], replace(FULL.blocks[3], name="more"), FULL.blocks[4])
        ),
        "it has block more, which lite0 does not have; make a new plan with --dry-run.",
    ),
    "an unknown action": (with_block(FULL, 1, action=a_choice("thawed")), "the plan's"),
    "an action of a number": (with_block(FULL, 1, action=a_choice(3)), "the plan's"),
    "a body block replaced": (with_block(FULL, 1, action=a_choice("replaced")), "the plan has"),
    "a body block added": (with_block(FULL, 3, action=a_choice("added")), "has block top added;"),
    "a learning rate of 0": (with_block(FULL, 1, lr=a_choice(0.0)), "the plan's"),
    "a learning rate below 0": (with_block(FULL, 4, lr=a_choice(-0.001)), "block.output.lr must"),
    "an infinite learning rate": (with_block(FULL, 1, lr=a_choice(float("inf"))), "lr must be a"),
    "a learning rate that is NaN": (with_block(FULL, 1, lr=a_choice(float("nan"))), "lr must be"),
    "a learning rate in words": (with_block(FULL, 1, lr=a_choice("fast")), "lr must be a number"),
    "a learning rate of a frozen block": (
        with_block(FULL, 0, action=a_choice("frozen")),
        "has a learning rate for block stem, which is frozen; remove it, or "
        "--set block.stem.action=tuned.",
    ),
    "a tuned block without a learning rate": (with_block(FULL, 0, lr=None), "has block stem"),
    "a head without a learning rate": (with_block(FULL, 4, lr=None), "has block output replaced"),
    "low-rank without a rank": (
        replace(LORA, training=replace(LORA.training, lora_rank=None)),
        "has low-rank blocks and lacks training.lora_rank; add --set training.lora_rank=8.",
    ),
    "layers added under another name": (
        with_block(plan_for("add"), 4, name="X"),
        "the plan calls the added layers X; here they are called added.",
    ),
    "gradual and low-rank": (replace(LORA, strategy=a_choice("full+gradual")), "has low-rank"),
    "a strategy that is none": (replace(FULL, strategy=a_choice("fulll")), "has strategy"),
    "a strategy that is not resolved": (
        replace(FULL, strategy=a_choice("auto+add")),
        r"'auto\+add', which is not resolved; name a depth",
    ),
    "no epochs": (training(epochs=None), "trains blocks without training.epochs; make a new"),
    "no optimizer": (training(optimizer=None), "without training.optimizer; make a new plan"),
    "not a step": (training(epochs=0.05), "training.epochs 0.05 of 300 examples and"),
    "a batch of 0": (training(batch_size=0), "training.batch_size must be a whole number, 1 or"),
    "a batch that is not whole": (training(batch_size=8.5), "training.batch_size must be a whole"),
    "a long warm-up": (training(warmup=1.5), "training.warmup must be a number from 0 to 1, not"),
    "a warm-up below 0": (training(warmup=-0.1), "training.warmup must be a number from 0"),
    "no crop": (training(crop=0.0), "training.crop must be a number above 0, at most 1, not 0.0."),
    "a wide crop": (training(crop=1.01), "training.crop must be a number above 0, at most 1"),
    "no folds": (training(folds=0), "training.folds must be a whole number, 1 or more, not 0."),
    "no decay": (training(layer_decay=0), "training.layer_decay must be a number above 0, at"),
    "a rising decay": (training(layer_decay=2.0), "training.layer_decay must be a number"),
    "an optimizer not ours": (training(optimizer="adam"), "must be adamw or sgd, not 'adam'."),
    "weights that grow": (training(weight_decay=-1.0), "training.weight_decay must be a num"),
    "a flip of 1": (training(flip=1), "training.flip must be true or false, not 1."),
    "a rank of 0": (training(lora_rank=0), "training.lora_rank must be a whole number from 1 to"),
    "a learning rate of true": (training(lr=True), "training.lr must be a number above 0, not"),
    "a seed too large": (training(seed=2**32), "training.seed must be a whole number"),
    "no channels": (inputs(channels=0), "input.channels must be a whole number from 1 to 13, not"),
    "many channels": (inputs(channels=14), "input.channels must be a whole number from 1 to 13"),
    "a small input": (inputs(size=15), "input.size must be a whole number of px, 16 or more, not"),
    "an input that is not whole": (inputs(size=224.0), "input.size must be a whole number of px"),
    "two bands of colour": (inputs(channels=5, rgb=(0, 1)), "input.rgb must be three different"),
    "a band twice": (inputs(channels=5, rgb=(3, 3, 1)), "input.rgb must be three different"),
    "a band beyond": (inputs(channels=5, rgb=(5, 1, 2)), "input.rgb must be three different"),
    "a penalty of 0": (head(penalties=(0.1, 0.0)), "the plan's head.penalties must be numbers"),
    "no penalties": (head(penalties=()), "has nothing in head.penalties; name at least one."),
    "no candidates": (head(candidates=()), "has nothing in head.candidates; name at least one."),
    "no outer folds": (head(outer_folds=0), "head.outer_folds must be a whole number, 1 or more"),
    "no permutations": (head(permutations=0), "head.permutations must be a whole number from 1"),
    "a rank too large": (training(lora_rank=257), "training.lora_rank must be a whole number"),
    "too many permutations": (head(permutations=10**6), "head.permutations must be a whole"),
    "scratch over a base model": (
        with_block(plan_for("scratch"), 1, action=a_choice("tuned")),
        "has strategy scratch and block blocks.0 tuned, and in scratch every block is fresh; write",
    ),
    "a strategy that trains and blocks that do not": (
        replace(HEAD, strategy=a_choice("last:2")),
        "has strategy last:2, and nothing is trained step by step: every block is frozen; "
        "write strategy head, or set blocks to tuned.",
    ),
    "scratch that trains nothing": (replace(HEAD, strategy=a_choice("scratch")), "has strategy"),
    "layers that were not added": (replace(HEAD, strategy=a_choice("head+add")), "has strategy"),
    "training that trains nothing": (
        replace(HEAD, training=FULL.training),
        "has training.optimizer, and nothing is trained step by step: every block is frozen; "
        "remove it, or add --strategy last:1.",
    ),
    "a head that moves alone": (with_block(HEAD, 4, lr=a_choice(0.1)), "has a learning rate for"),
    "gradual with one layer": (
        apply_settings(
            replace(plan_for("last:2"), strategy=a_choice("last:2+gradual")),
            ["block.top.action=frozen"],
        ),
        r"has strategy last:2\+gradual and 1 tuned block; gradual needs at least two, such as",
    ),
}


@pytest.mark.parametrize(("plan", "says"), BAD.values(), ids=BAD.keys())
def test_a_bad_plan_is_named_with_its_cure(plan, says):
    with pytest.raises(PlanError, match=says) as caught:
        check_plan(plan, network())
    assert str(caught.value).startswith("the plan")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        ["block.top.action=frozen"],
        ["block.stem.action=fresh", "block.1.lr=1"],
        ["block.blocks.0.action=frozen", "block.stem.action=fresh"],
        ["block.2.action=low-rank", "training.lora_rank=4"],
        ["training.warmup=0", "training.crop=1", "training.weight_decay=0"],
        ["input.channels=13", "input.rgb=12,0,5", "input.size=16"],
        ["training.warmup=1"],
    ],
)
def test_blocks_may_have_any_actions_in_any_order(settings):
    check_plan(apply_settings(FULL, settings), network())


@pytest.mark.parametrize("strategy", ["head", "frozen:4", "frozen:9"])
def test_a_plan_that_trains_nothing_is_sound_under_each_word_for_it(strategy):
    check_plan(replace(HEAD, strategy=a_choice(strategy)), network())


WRONG = [1.5, True, "x", "", -1, 0.0, (64, 64), ()]


@pytest.mark.parametrize("value", WRONG, ids=str)
@pytest.mark.parametrize(
    "path",
    [
        "training.batch_size",
        "training.seed",
        "training.folds",
        "training.lora_rank",
        "head.outer_folds",
        "head.permutations",
        "input.size",
        "input.channels",
    ],
)
def test_what_is_no_whole_number_is_refused_before_anything_is_read(path, value):
    section, name = path.split(".")
    record = replace(getattr(FULL, section), **{name: a_choice(value)})
    found = refusal(check_values, replace(FULL, **{section: record}))
    assert found.startswith(f"the plan's {path} must be a whole number")


@pytest.mark.parametrize("value", [True, "x", "", -1, 0.0, float("nan"), float("inf"), (2, 2), ()])
def test_epochs_that_are_no_number_above_0_are_refused_before_anything_is_read(value):
    shown = list(value) if isinstance(value, tuple) else value
    found = refusal(check_values, training(epochs=value))
    assert found == f"the plan's training.epochs must be a number above 0, not {shown!r}."


def test_epochs_may_be_a_fraction():
    check_values(training(epochs=1.5))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("base", 3, "base must be text, not 3."),
        ("arch", True, "arch must be text, not True."),
        ("strategy", 1.5, "strategy must be text, not 1.5."),
        ("partial", "yes", "partial must be true or false, not 'yes'."),
        ("partial", 1, "partial must be true or false, not 1."),
    ],
)
def test_choices_outside_the_sections_have_a_type_too(name, value, says):
    assert refusal(check_values, replace(FULL, **{name: a_choice(value)})) == f"the plan's {says}"


@pytest.mark.parametrize("value", [True, "x", (1, 2), 0])
def test_a_learning_rate_that_is_no_number_is_refused_before_anything_is_read(value):
    assert "block.stem.lr must be a number above 0" in refusal(
        check_values, with_block(FULL, 0, lr=a_choice(value))
    )


@pytest.mark.parametrize("plan", [HEAD, FULL, LORA, plan_for("add"), plan_for("scratch")])
def test_values_of_plans_that_were_built_are_sound(plan):
    check_values(replace(plan, partial=a_choice(True), arch=a_choice("timm:resnet18")))


def test_layers_may_be_added_more_than_once():
    plan = plan_for("add")
    again = replace(plan.blocks[4], name="added#2")
    check_plan(replace(plan, blocks=(*plan.blocks[:5], again, plan.blocks[5])), network())


def test_a_head_of_another_base_model_is_refused():
    plan, facts = head(candidates=("last", "grid-late")), network_facts()
    says = "'grid-late' in head.candidates; for this base model and 300 images there are class-mean"
    with pytest.raises(PlanError, match=says):
        check_facts(plan, FACTS, facts, PROFILES)
    check_facts(plan, FACTS, facts, (*PROFILES, "grid-late"))


def test_heads_that_compare_all_pairs_are_for_few_images():
    plan, many = head(candidates=("class-mean",)), replace(FACTS, n=3000)
    check_facts(plan, FACTS, network_facts(), PROFILES)
    with pytest.raises(PlanError, match="3,000 images there are last, late"):
        check_facts(plan, many, network_facts(), PROFILES)


def test_a_stack_combines_those_before_it():
    numbers = replace(FACTS, task="regress")
    check_facts(head(candidates=("last", "late", "stack")), numbers, network_facts(), PROFILES)
    for names in (("last", "stack", "late"), ("stack",)):
        with pytest.raises(PlanError, match=r"head\.candidates with stack, which combines those"):
            check_facts(head(candidates=names), numbers, network_facts(), PROFILES)
    with pytest.raises(PlanError, match="there are stack, last, late"):
        check_facts(head(candidates=("logistic",)), numbers, network_facts(), PROFILES)
    with pytest.raises(PlanError, match=r"'stack' in head\.candidates; for this base model"):
        check_facts(head(candidates=("last", "late", "stack")), FACTS, network_facts(), PROFILES)


def test_folds_and_validation_set_must_agree():
    held = replace(FACTS, holdout=60)
    with pytest.raises(PlanError, match="validation set in your data is the only fold; --set head"):
        check_facts(HEAD, held, network_facts(), PROFILES)
    alone = plan_for("head", held)
    check_facts(alone, held, network_facts(), PROFILES)
    with pytest.raises(PlanError, match=r"has no validation set; --set head\.outer_folds=10"):
        check_facts(alone, FACTS, network_facts(), PROFILES)
    check_facts(apply_settings(alone, ["head.outer_folds=10"]), FACTS, network_facts(), PROFILES)


@pytest.mark.parametrize("action", ["frozen", "low-rank"])
def test_random_values_are_not_kept(action):
    facts = network_facts(fresh=frozenset({"stem"}), preprocessing=PREPROCESSING)
    plan = plan_for("full+lora", network=facts)
    check_facts(plan, FACTS, facts, PROFILES)
    kept = apply_settings(plan, [f"block.stem.action={action}"])
    says = f"block stem {action}, and it would stay at random.*--set block.stem.action=fresh trains"
    with pytest.raises(PlanError, match=says):
        check_facts(kept, FACTS, facts, PROFILES)


def test_there_are_no_more_folds_than_independent_images():
    few = replace(FACTS, n=60, n_groups=6)
    check_facts(head(outer_folds=6), few, network_facts(), PROFILES)
    says = r"head.outer_folds 7, and the images form 6 independent groups; --set head.outer_folds="
    with pytest.raises(PlanError, match=says):
        check_facts(head(outer_folds=7), few, network_facts(), PROFILES)


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (with_block(training(contrastive=True), 0, action=a_choice("fresh")), "block stem is new"),
        (
            replace(training(contrastive=True), strategy=a_choice("full+gradual")),
            "gradual validates the head while it unfreezes",
        ),
        (training(contrastive=True, batch_size=2, micro_batch=2), "that is 2 of a batch of 2"),
        (training(contrastive=True, batch_size=16, micro_batch=1), "that is 1 of a batch of 16"),
    ],
    ids=["new", "gradual", "batch", "at once"],
)
def test_contrastive_training_needs_a_whole_batch_and_a_head_fitted_after(plan, says):
    with pytest.raises(PlanError, match=says):
        check_facts(plan, FACTS, network_facts(), PROFILES)


def test_contrastive_training_needs_classes():
    plan, numbers = training(contrastive=True), replace(FACTS, task="regress")
    check_facts(plan, FACTS, network_facts(), PROFILES)
    with pytest.raises(PlanError, match=r"training\.contrastive pulls examples of one class"):
        check_facts(plan, numbers, network_facts(), PROFILES)
