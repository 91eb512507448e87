"""--set: what it may set, what follows from it, and what it refuses."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plans import FACTS, a_choice, actions, apply_settings, network, network_facts, plan_for, rates
from warmstart.errors import PlanError
from warmstart.planning.check import check_plan
from warmstart.planning.fine_tuning import plan_cache
from warmstart.planning.settings import PATHS, parse_settings, parse_value, update_lrs

HEAD = plan_for("head")
LAST = plan_for("last:2")
FULL = plan_for("full")


def value(plan, path):
    """The choice at a path outside the blocks."""
    section, name = path.split(".")
    return getattr(getattr(plan, section), name)


SET = {
    "training.batch_size=4": 4,
    "training.optimizer=SGD": "sgd",
    "training.lr=1e-2": 0.01,
    "training.layer_decay=1": 1.0,
    "training.weight_decay=0": 0.0,
    "training.epochs=30": 30.0,
    "training.warmup=.5": 0.5,
    "training.crop=1": 1.0,
    "training.flip=False": False,
    "training.folds=2": 2,
    "training.model_soup=2": 2,
    "head.candidates=last, late": ("last", "late"),
    "head.penalties=1,2.5": (1.0, 2.5),
    "head.outer_folds=3": 3,
    "input.size=320": 320,
    "input.channels=5": 5,
    "input.rgb=3,2,1": (3, 2, 1),
    "training.color_jitter=0.3": 0.3,
    "training.augmentations=8": 8,
    "training.split_at=2": 2,
    "training.cache_dtype=Float16": "float16",
    "training.ema_decay=0": 0.0,
    "training.l2_sp=2": 2.0,
    "training.micro_batch=1": 1,
    "training.contrastive=true": True,
    "training.contrastive_temperature=0.05": 0.05,
    "training.parallel=Pipeline:2": "pipeline:2",
    "training.gradient_checkpointing=TRUE": True,
    "training.device=cuda": "cuda",
    "training.precision=bfloat16": "bfloat16",
    "training.workers=0": 0,
    "training.compile=true": True,
    "training.time_shift=0.2": 0.2,
    "training.spec_augment=0": 0.0,
    "input.sample_rate=8000": 8000,
    "input.seconds=1.5": 1.5,
    "input.n_mels=64": 64,
    "input.top_db=40": 40.0,
}


@pytest.mark.parametrize(("setting", "expected"), SET.items(), ids=SET.keys())
def test_a_value_is_typed_by_its_place_and_is_the_users(setting, expected):
    path = setting.partition("=")[0]
    old, found = value(FULL, path), value(apply_settings(FULL, [setting]), path)
    assert (found.value, type(found.value)) == (expected, type(expected))
    assert (found.source, found.because) == ("user", "your choice (--set)")
    rule = old and (old.value if old.rule is None else old.rule)
    assert found.rule == rule
    assert apply_settings(FULL, []) == FULL


def test_every_path_that_may_be_set_is_tested():
    assert {setting.partition("=")[0] for setting in SET} == PATHS.keys() - {"training.lora_rank"}
    low = apply_settings(plan_for("lora"), ["training.lora_rank=4"])
    assert (low.training.lora_rank.value, low.training.lora_rank.rule) == (4, 8)


def test_a_learning_rate_changes_the_blocks_that_were_not_themselves_set():
    found = apply_settings(FULL, ["training.lr=0.01", "block.top.lr=0.5"])
    assert rates(found) == {
        "stem": 0.00422,
        "blocks.0": 0.00562,
        "blocks.1": 0.0075,
        "top": 0.5,
        "output": 0.01,
    }
    top = found.blocks[3].lr
    assert (top.source, top.rule) == ("user", 0.01)
    assert "0.01 x 0.75^3" in found.blocks[0].lr.because
    again = apply_settings(found, ["training.layer_decay=1"])
    assert rates(again) == {
        "stem": 0.01,
        "blocks.0": 0.01,
        "blocks.1": 0.01,
        "top": 0.5,
        "output": 0.01,
    }
    assert apply_settings(found, ["block.4.lr=0.2"]).blocks[3].lr.rule == 0.01


def test_an_action_sets_its_learning_rate_or_removes_it():
    frozen = apply_settings(FULL, ["block.stem.action=frozen"])
    assert frozen.blocks[0].lr is None
    choice = frozen.blocks[0].action
    assert (choice.value, choice.source, choice.rule) == ("frozen", "user", "frozen")
    tuned = apply_settings(LAST, ["block.blocks.0.action=tuned"])
    assert rates(tuned) == {**rates(LAST), "blocks.0": 0.000563}
    low = apply_settings(LAST, ["block.top.action=low-rank", "training.lora_rank=2"])
    assert rates(low)["top"] == 0.003
    own = apply_settings(LAST, ["block.stem.lr=0.1", "block.stem.action=tuned"])
    assert rates(own)["stem"] == 0.1
    assert own.blocks[0].lr.rule == 0.000422  # 0.001 x 0.75^3


def test_above_a_fresh_block_the_head_is_new_too():
    found = apply_settings(LAST, ["block.top.action=fresh"])
    assert (rates(found)["top"], rates(found)["output"]) == (0.003, 0.003)
    back = apply_settings(found, ["block.top.action=tuned"])
    assert rates(back) == rates(LAST)
    scratch = apply_settings(plan_for("scratch"), ["block.stem.action=frozen"])
    assert set(rates(scratch).values()) == {0.001}


def test_another_optimizer_has_its_own_learning_rate_and_weight_decay():
    found = apply_settings(FULL, ["training.optimizer=sgd"])
    assert (found.training.lr.value, found.training.weight_decay.value) == (0.01, 0.0001)
    assert rates(found)["top"] == 0.01
    assert "what 0.001 is for AdamW" in found.training.lr.because
    kept = apply_settings(
        FULL, ["training.optimizer=sgd", "training.lr=0.5", "training.weight_decay=0"]
    )
    assert (kept.training.lr.value, kept.training.weight_decay.value) == (0.5, 0.0)
    new = apply_settings(plan_for("scratch"), ["training.optimizer=sgd"])
    assert new.training.lr.value == 0.05
    same = apply_settings(FULL, ["training.optimizer=adamw"])
    assert same.training.lr == FULL.training.lr
    odd = replace(FULL, training=replace(FULL.training, optimizer=a_choice("adam")))
    assert apply_settings(odd, ["training.optimizer=sgd"]).training.lr.value == 0.001


def test_the_micro_batch_follows_the_batch_size():
    """And the moving average of the weights covers a tenth of the steps."""
    found = apply_settings(FULL, ["training.batch_size=64"]).training
    assert (found.micro_batch.value, found.micro_batch.source) == (64, "rule")
    assert found.ema_decay.value == 0.7872  # 1 - 1 / 4.7 of 47 steps
    longer = apply_settings(FULL, ["training.epochs=266.6667"]).training
    assert (longer.ema_decay.value, longer.micro_batch.value) == (0.998, 16)
    mine = ["training.batch_size=64", "training.micro_batch=16", "training.ema_decay=0.9"]
    kept = apply_settings(FULL, mine).training
    assert (kept.micro_batch.value, kept.ema_decay.value) == (16, 0.9)
    older = replace(FULL, training=replace(FULL.training, micro_batch=None, ema_decay=None))
    assert apply_settings(older, ["training.batch_size=64"]).training.micro_batch is None


def test_a_name_comes_before_a_number():
    plan = plan_for("full", network=network_facts(("0", "1", "2")))
    found = apply_settings(plan, ["block.1.lr=0.5", "block.3.lr=0.25"])
    assert (rates(found)["1"], rates(found)["2"]) == (0.5, 0.25)


ORDERED = [
    "training.lr=0.01",
    "block.top.lr=0.2",
    "block.blocks.0.action=tuned",
    "block.2.lr=0.3",
    "training.layer_decay=0.5",
    "block.blocks.1.action=frozen",
    "training.optimizer=sgd",
]


@given(order=st.permutations(ORDERED))
def test_the_order_of_settings_does_not_matter(order):
    found = apply_settings(LAST, order)
    assert found == apply_settings(LAST, ORDERED)
    check_plan(plan_cache(found, network_facts(), FACTS), network())


@given(base=st.floats(1e-6, 1), decay=st.floats(0.1, 1))
def test_learning_rates_set_one_by_one_equal_those_that_the_rule_derives(base, decay):
    made = apply_settings(FULL, [f"training.lr={base!r}", f"training.layer_decay={decay!r}"])
    by_lr = apply_settings(plan_for("full", lr=base), [f"training.layer_decay={decay!r}"])
    assert rates(made) == rates(by_lr)
    assert update_lrs(made, range(5)) == made


def test_a_plan_that_trains_nothing_is_left_alone():
    assert update_lrs(HEAD, range(5)) == HEAD
    head = apply_settings(HEAD, ["head.candidates=last", "input.size=64"])
    assert (head.head.candidates.value, head.input.size.value) == (("last",), 64)
    assert head.blocks == HEAD.blocks


BAD = {
    "training.epochs": "--set training.epochs needs a path and a value, such as training.ep",
    "training.epochs=": " needs a path and a value",
    "=3": " needs a path and a value",
    "training.lr=auto": "auto is not a value; leave out this --set instead.",
    "training.epocs=3": "there is no training.epocs in a plan; did you mean training.epochs?",
    "epochs=3": "there is no epochs in a plan; did you mean training.epochs?",
    "lr=3": "there is no lr in a plan; did you mean training.lr?",
    "batch_size=3": "did you mean training.batch_size?",
    "base.partal=true": "did you mean base.partial?",
    "xyzzy=3": "there is no xyzzy in a plan; there are training.NAME, head.NAME, input.NAME, base.",
    "training.seed=3": "it cannot be set here; use --seed.",
    "engine=torch": "there is no engine in a plan; did you mean training.engine?",
    "head.permutations=9": "it cannot be set here; use --budget.",
    "base=lite1": "it cannot be set here; use --base.",
    "strategy=full": "it cannot be set here; use --strategy.",
    "training.epochs=many": "must be a number, such as 0.001, not 'many'.",
    "training.epochs=1_000": "must be a number",
    "training.epochs=" + "9" * 5000: "must be a number",
    "training.folds=many": "must be a whole number, such as 8, not 'many'.",
    "training.folds=2.5": "must be a whole number",
    "training.folds=1_000": "must be a whole number",
    "training.folds=" + "9" * 5000: "must be a whole number",
    "training.lr=nan": "must be a number, such as 0.001, not",
    "training.lr=1e999": "must be a number",
    "training.lr=0,001": "must be a number",
    "training.flip=1": "must be true or false, not",
    "head.penalties=1,x": "must be numbers separated by commas, such as 0.1,1, not",
    "head.candidates=last,,late": "must be words separated by commas, not",
    "input.rgb=red,green,blue": "must be whole numbers separated by commas, such as 3,2,1, not",
    "training.lora_rank=4": "no block is low-rank; add --strategy full+lora.",
    "block.stem=frozen": "a block has block.NAME.action and block.NAME.lr.",
    "block.stem.colour=3": "a block has block.NAME.action and block.NAME.lr.",
    "block.lr=3": "a block has block.NAME.action and block.NAME.lr.",
    "block.blocks.7.lr=1": "no block blocks.7; they are numbered 1 to 4 from the input; did you",
    "block.xyzzy.lr=1": "numbered 1 to 4 from the input; by name they are stem to output.",
    "block.5.lr=1": "there is no block 5; they are numbered 1 to 4 from the input",
    "block.0.lr=1": "there is no block 0; they are numbered 1 to 4 from the input",
    "block.stem.lr=1": "the block is frozen and has no learning rate; add --set block.stem.act",
    "block.top.lr=fast": "must be a number, such as 0.001, not",
    "block.top.action=replaced": "a block of the base model cannot be replaced; it can be froz",
    "block.top.action=added": "a block of the base model cannot be added; it can be frozen,",
    "block.top.action=froze": "froze is not an action; did you mean frozen?",
    "block.top.action=melted!": "melted! is not an action; there are frozen, tuned, low-rank, fr",
    "block.output.action=frozen": "the head is always replaced; its learning rate can be set.",
}


@pytest.mark.parametrize(("setting", "says"), BAD.items(), ids=lambda text: text[:30])
def test_a_bad_setting_is_named_with_its_cure(setting, says):
    with pytest.raises(PlanError) as caught:
        apply_settings(LAST, [setting])
    assert str(caught.value).startswith(f"--set {setting.partition('=')[0].strip()}")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["training.lr=1", "training.lr=1"], "--set training.lr is given twice; keep one."),
        (["block.4.lr=1", "block.top.lr=1"], "--set block.top.lr is given twice, by name and by"),
        (["block.3.action=frozen", "block.4.action=frozen"], "--set block.NAME.action=frozen"),
    ],
)
def test_settings_that_do_not_go_together(settings, says):
    with pytest.raises(PlanError) as caught:
        apply_settings(LAST, settings)
    assert str(caught.value).startswith(says)


def test_added_layers_keep_their_action():
    plan = plan_for("add")
    with pytest.raises(PlanError, match=r"no other action; leave \+add out of --strategy"):
        apply_settings(plan, ["block.added.action=frozen"])
    assert rates(apply_settings(plan, ["block.added.lr=0.5"]))["added"] == 0.5


@pytest.mark.parametrize(
    "setting",
    ["training.epochs=3", "training.batch_size=8", "block.top.action=tuned", "block.output.lr=0.1"],
)
def test_training_cannot_be_set_where_nothing_is_trained(setting):
    says = "nothing is trained step by step with strategy head; add --strategy last:N."
    with pytest.raises(PlanError) as caught:
        apply_settings(HEAD, [setting])
    assert str(caught.value) == f"--set {setting}: {says}"


def test_an_input_that_is_no_square_cannot_be_set():
    plan = plan_for("full", network=network_facts())
    with pytest.raises(PlanError, match="this base model has no square image input"):
        apply_settings(plan, ["input.size=64"])


@given(text=st.text(max_size=30), path=st.sampled_from([*PATHS, "block.top.lr", "block.9.x", "q"]))
def test_any_text_is_a_value_or_a_plan_error(text, path):
    for setting in (f"{path}={text}", text):
        try:
            found = apply_settings(FULL, [setting])
        except PlanError:
            continue
        assert actions(found) == actions(FULL)


@given(value=st.integers(-(10**17), 10**17) | st.floats(-1e6, 1e6))
def test_numbers_are_read_as_python_writes_them(value):
    assert parse_value("training.lr", repr(value), "number") == float(value)
    if isinstance(value, int):
        assert parse_value("training.folds", str(value), "whole") == value


def test_settings_are_read_before_there_is_a_plan():
    parsed = parse_settings(["input.size=64", " block.a.action = 1=2 ", "column.age=Number"])
    assert {path: one.value for path, one in parsed.items()} == {
        "input.size": 64,
        "block.a.action": "1=2",
        "column.age": "number",
    }
