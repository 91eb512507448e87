"""From what was asked to a plan: --set over options, options over a plan file, that over rules."""

from __future__ import annotations

from dataclasses import replace

import pytest

from plans import (
    ENGINE,
    FACTS,
    PREPROCESSING,
    PROFILES,
    a_choice,
    actions,
    network_facts,
    plan_for,
    rates,
    refusal,
    with_block,
)
from tiny import PREP, network
from warmstart.errors import PlanError
from warmstart.features import engine_choice
from warmstart.network.finished_run import partition_base
from warmstart.network.load import load
from warmstart.planning.facts import DataFacts
from warmstart.planning.fine_tuning import plan_cache
from warmstart.planning.plan_file import write_plan
from warmstart.planning.settings import apply_settings
from warmstart.records.inputs import Preprocessing
from warmstart.records.plan import Choice
from warmstart.request import Request
from warmstart.run import plan as run_plan

FACTS_OF_BASE = network_facts(preprocessing=PREPROCESSING)


def file_plan(
    strategy="last:2", settings=("training.epochs=1.6667", "training.batch_size=10"), **wishes
):
    """What a user kept: another seed and start, some values of their own."""
    plan = apply_settings(plan_for(strategy, seed=5, base="lite1", **wishes), settings)
    return plan_cache(plan, FACTS_OF_BASE, FACTS)


def made(facts=FACTS, **request):
    request = run_plan.with_plan_file(Request(data=None, **request))
    return run_plan.make_plan(request, facts, FACTS_OF_BASE, PROFILES, ENGINE)


def values(plan):
    training = plan.training
    return {
        "base": plan.base.value,
        "seed": training.seed.value,
        "lr": training.lr.value,
        "epochs": training.epochs.value,
        "batch_size": training.batch_size.value,
    }


# ---- settling ----------------------------------------------------------------------------


def test_without_a_plan_nothing_is_settled():
    request = Request(data="photos", seed=3)
    assert run_plan.with_plan_file(request) is request
    assert run_plan.engine_of(request) is None


@pytest.mark.parametrize("given", [None, frozenset()])
def test_base_model_seed_and_budget_come_from_the_file(tmp_path, given):
    plan = file_plan(budget="fast", arch="timm:resnet18")
    path = tmp_path / "plan.toml"
    path.write_text(write_plan(plan))
    request = run_plan.with_plan_file(Request(data="photos", plan=path, given=given))
    assert request.plan == plan
    assert (request.base, request.arch, request.seed, request.budget) == (
        "lite1",
        "timm:resnet18",
        5,
        "fast",
    )
    assert run_plan.engine_of(request) == plan.training.engine
    assert request.typed == frozenset()


def test_what_was_typed_holds_against_the_file():
    plan = file_plan(budget="fast", arch="timm:resnet18")
    typed = frozenset({"base", "seed", "budget"})
    request = run_plan.with_plan_file(
        Request(data="d", plan=plan, base="lite0", seed=0, budget="balanced", given=typed)
    )
    assert (request.base, request.arch, request.seed, request.budget) == (
        "lite0",
        None,
        0,
        "balanced",
    )


def test_where_nobody_knows_what_was_typed_it_is_what_differs_from_the_usual():
    plan = file_plan()
    usual = run_plan.with_plan_file(Request(data="d", plan=plan, base="lite0", seed=0))
    assert (usual.base, usual.seed) == ("lite1", 5)
    other = run_plan.with_plan_file(Request(data="d", plan=plan, base="lite2", seed=9))
    assert (other.base, other.seed) == ("lite2", 9)
    module = network()
    own = run_plan.with_plan_file(Request(data="d", plan=plan, base=module))
    assert own.base is module


def test_an_arch_that_was_typed_is_that_of_the_files_base_model():
    plan = file_plan(arch="timm:resnet18")
    request = run_plan.with_plan_file(Request(data="d", plan=plan, arch="timm:resnet34"))
    assert (request.base, request.arch) == ("lite1", "timm:resnet34")


@pytest.mark.parametrize(("permutations", "budget"), [(199, "fast"), (999, "balanced")])
def test_how_closely_the_evidence_is_measured_follows_from_the_file(permutations, budget):
    plan = file_plan()
    plan = replace(plan, head=replace(plan.head, permutations=a_choice(permutations)))
    assert run_plan.with_plan_file(Request(data="d", plan=plan)).budget == budget


def test_an_engine_that_is_none_is_refused():
    plan = file_plan()
    odd = replace(plan, training=replace(plan.training, engine=a_choice("tpu")))
    with pytest.raises(
        PlanError, match=r"plan's training.engine: tpu is not an engine; there are to"
    ):
        run_plan.with_plan_file(Request(data="d", plan=odd))
    with pytest.raises(
        PlanError, match=r"--set training.engine=TPU: tpu is not an engine; there are"
    ):
        run_plan.with_plan_file(Request(data="d", settings=("training.engine=TPU",)))


def test_an_engine_that_is_not_installed_is_refused_unless_another_is_set(monkeypatch):
    monkeypatch.setattr(engine_choice, "installed_engines", lambda: ("torch", "traced"))
    plan = file_plan()
    far = replace(plan, training=replace(plan.training, engine=a_choice("openvino")))
    with pytest.raises(PlanError, match=r"plan's training.engine: openvino is not installed; "):
        run_plan.with_plan_file(Request(data="d", plan=far))
    with pytest.raises(PlanError, match=r"--set training.engine=openvino: openvino is not install"):
        run_plan.with_plan_file(Request(data="d", settings=("training.engine=openvino",)))
    request = run_plan.with_plan_file(
        Request(data="d", plan=far, settings=("training.engine=traced",))
    )
    assert run_plan.engine_of(request) == Choice(
        value="traced", because="your choice (--set)", source="user"
    )


@pytest.mark.parametrize("setting", ["training.engine=traced", " training.engine = Traced "])
def test_the_plan_holds_the_engine_that_the_extraction_has_taken(setting):
    taken = Choice(value="traced", because="your choice (--set)", source="user", rule="torch")
    for plan in (None, file_plan()):
        request = run_plan.with_plan_file(Request(data=None, plan=plan, settings=(setting,)))
        made = run_plan.make_plan(request, FACTS, FACTS_OF_BASE, PROFILES, taken)
        assert made.training.engine == taken


@pytest.mark.parametrize(
    ("section", "name", "value", "says"),
    [
        ("training", "seed", "x", "training.seed must be a whole number from 0 to"),
        ("training", "seed", True, "training.seed must be a whole number"),
        ("training", "seed", 1.5, "training.seed must be a whole number"),
        ("input", "size", (64, 64), "input.size must be a whole number"),
        ("input", "channels", "x", "input.channels must be a whole number"),
        ("input", "rgb", ("a", 1, 2), "input.rgb must be three different bands"),
        ("head", "permutations", "many", "head.permutations must be a whole number"),
    ],
)
def test_a_file_with_values_of_a_wrong_type_is_refused_before_it_is_used(
    tmp_path, section, name, value, says
):
    plan = file_plan()
    odd = replace(plan, **{section: replace(getattr(plan, section), **{name: a_choice(value)})})
    path = tmp_path / "plan.toml"
    path.write_text(write_plan(odd))
    result = refusal(lambda: run_plan.with_plan_file(Request(data="d", plan=path)))
    assert result is not None
    assert says in result


def test_a_file_that_is_no_plan_is_refused(tmp_path):
    with pytest.raises(PlanError, match=r"none.toml does not exist"):
        run_plan.with_plan_file(Request(data="d", plan=tmp_path / "none.toml"))
    (tmp_path / "letter.toml").write_text("dear = ")
    with pytest.raises(PlanError, match=r"letter.toml is not valid TOML"):
        run_plan.with_plan_file(Request(data="d", plan=tmp_path / "letter.toml"))


# ---- who wins ----------------------------------------------------------------------------


def test_a_file_is_followed_to_the_letter():
    for plan in (file_plan(), file_plan("head", ()), file_plan("scratch"), file_plan("full+lora")):
        assert made(plan=plan) == plan


@pytest.mark.parametrize(
    ("more", "changed"),
    [
        ({"lr": 0.02}, {"lr": 0.02}),
        ({"seed": 9}, {"seed": 9}),
        ({"base": "lite2"}, {"base": "lite2"}),
        ({"settings": ("training.epochs=3",)}, {"epochs": 3.0}),
        ({"settings": ("training.lr=0.03",), "lr": 0.02}, {"lr": 0.03}),
        (
            {"settings": ("training.batch_size=4", "training.epochs=0.1467")},
            {"batch_size": 4, "epochs": 0.1467},
        ),
        ({"strategy": "full"}, {}),
    ],
)
def test_what_was_typed_wins_over_the_file_and_all_else_is_the_files(more, changed):
    plan = file_plan()
    result = made(plan=plan, **more)
    assert values(result) == {**values(plan), **changed}
    for name in changed:
        choice = result.base if name == "base" else getattr(result.training, name)
        assert choice.source == "user"


def test_a_rate_that_was_typed_moves_every_block_that_the_file_left_to_the_rule():
    plan = apply_settings(file_plan("full"), ["block.stem.lr=0.5"])
    result = rates(made(plan=plan, lr=0.02))
    assert result["stem"] == 0.5
    assert result["top"] == result["output"] == 0.02
    assert result["blocks.1"] == pytest.approx(0.015)


def test_a_strategy_that_was_typed_takes_the_place_of_the_files():
    plan = with_block(file_plan("last:2"), 0, action=a_choice("tuned"), lr=a_choice(0.1))
    result = made(plan=plan, strategy="last:1")
    assert [*actions(result).values()] == ["frozen"] * 3 + ["tuned", "replaced"]
    assert (result.strategy.value, result.strategy.source) == ("last:1", "user")
    assert (result.training.epochs, result.training.seed.value) == (plan.training.epochs, 5)


def test_single_values_win_over_the_file_part_by_part():
    plan = file_plan("last:2")
    settings = ("block.top.lr=0.5", "block.1.action=tuned", "block.blocks.1.action=frozen")
    result = made(plan=plan, settings=settings)
    assert [*actions(result).values()] == ["tuned", "frozen", "frozen", "tuned", "replaced"]
    assert rates(result)["top"] == 0.5
    assert rates(result)["output"] == rates(plan)["output"]


def test_a_strategy_that_the_blocks_outgrew_takes_their_name():
    plan = made(plan=file_plan("last:2"), settings=("block.2.action=tuned",))
    assert (plan.strategy.value, plan.strategy.rule) == ("last:3", "head")
    assert made(plan=plan) == plan
    edited = replace(file_plan("last:2"), strategy=a_choice("scratch"))
    assert made(plan=edited).strategy.value == "last:2"


def test_rules_decide_what_neither_says():
    plain = made(strategy="last:2")
    assert plain.training.epochs.source == "rule"
    assert plain.training.seed.source == "rule"
    assert {block.action.source for block in plain.blocks[:-1]} == {"user"}
    more = replace(FACTS, n=4000, n_groups=4000)
    assert made(more, strategy="last:2").samples_seen > plain.samples_seen


def test_the_base_model_that_a_ranking_chose_is_marked_so():
    choice = a_choice("lite2", "measured")
    assert made(base="lite2", base_choice=choice).base == choice


def test_a_network_of_ones_own_is_named_by_its_kind():
    assert made(base=network()).base.value == "Convolutions"


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (32, 16)])
def test_a_network_of_ones_own_sees_what_it_sees(side, channels):
    half = (0.5,) * channels
    prep = Preprocessing(size=(side, side), resize=side, mean=half, std=half)
    facts = network_facts(preprocessing=prep)
    plan = run_plan.make_plan(Request(data=None, base=network()), FACTS, facts, PROFILES, ENGINE)
    assert (plan.input.size.value, plan.input.channels.value) == (side, channels)


# ---- what a network or data do not allow -------------------------------------------------


def test_a_plan_for_another_network_is_refused():
    plan = plan_for("last:1", network=network_facts(("stem", "layer1", "layer2", "top")))
    with pytest.raises(PlanError, match=r"made for another network: it has block layer1"):
        made(plan=plan)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        (replace(FACTS, holdout=40), "training.folds 5, and the validation set in your data"),
        (replace(FACTS, n=5000), "'class-mean' in head.candidates"),
    ],
)
def test_a_plan_that_the_data_do_not_allow_is_refused(facts: DataFacts, message):
    plan = plan_for("last:1", replace(FACTS, smallest_class=4))
    assert "class-mean" in plan.head.candidates.value
    assert message in refusal(lambda: made(facts, plan=plan))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"strategy": "head", "lr": 0.1}, "nothing is trained step by step"),
        ({"strategy": "last:9"}, "has 4 blocks"),
        ({"strategy": "head", "settings": ("training.epochs=9",)}, "add --strategy last:N"),
        (
            {"strategy": "full", "settings": ("training.batch_size=900", "training.epochs=0.1333")},
            "one step",
        ),
        (
            {"strategy": "full", "settings": ("training.folds=0",)},
            "training.folds must be a whole",
        ),
        ({"strategy": "full", "settings": ("lr=0.1",)}, "did you mean training.lr?"),
        ({"strategy": "scratch", "settings": ("block.1.action=frozen",)}, "write strategy full"),
        ({"strategy": "last:1+gradual"}, "write last:2+gradual or full+gradual."),
        ({"strategy": "full+lora", "settings": ("training.lora_rank=300",)}, "from 1 to 256"),
        ({"settings": ("head.outer_folds=301",)}, "the images form 300 independent groups"),
    ],
)
def test_what_contradicts_itself_is_refused_with_a_cure(asked, message):
    result = refusal(lambda: made(**asked))
    assert result is not None
    assert message in result
    assert "\n" not in result


@pytest.mark.parametrize(
    ("strategy", "stream", "n", "cut"),
    [
        ("last:1", "float32", 100, 1),
        ("last:2", "float32", 10**9, 2),
        ("full", "float16", 100, 0),
        ("head", "float32", 100, 1),
        ("auto", "float32", 100, 1),
        ("head", "float32", 10**9, 0),
        ("last:1", "", 100, 0),
    ],
)
def test_a_extraction_keeps_what_layers_begin_with(strategy, stream, n, cut):
    """Where they were typed, counted from the output; else for `last:1`, while that is little."""
    base = replace(load(network(), preprocessing=PREP), stream=stream)
    n_blocks = len(partition_base(base).record.blocks)
    result = run_plan.stored_block(Request(data=None, strategy=strategy), base, n)
    assert result == (n_blocks - cut if cut else 0)
    if cut and strategy.startswith("last"):
        plan = plan_for(strategy)
        assert (
            run_plan.stored_block(Request(data=None, plan=plan, given=frozenset()), base, n)
            == result
        )
