import subprocess
import sys

import pytest

from warmstart.errors import PlanError
from warmstart.planning.build import DataFacts, Wishes, build
from warmstart.planning.planfile import read_plan, write_plan
from warmstart.records import Choice, NetworkRecord, PartRecord

ENGINE = Choice(value="torch", because="few images", source="rule")
FACTS = DataFacts(n=300, n_blocks=300, n_classes=10, smallest_class=30, holdout=0)
WISHES = Wishes(start="lite0", strategy="auto", budget="fast", seed=0)


def network():
    parts = [
        PartRecord(
            name=name, parameters=10, shape_in=(3, 8, 8), shape_out=(4, 8, 8), macs=5, layout="NCHW"
        )
        for name in ("stem", "blocks.0")
    ]
    return NetworkRecord(
        parts=tuple(parts), head_parameters=7, cut="traced", neck_width=4, neck_is_average=True
    )


def plan(wishes=WISHES, facts=FACTS):
    return build(wishes, facts, network(), ["last", "late"], ENGINE)


def test_a_plan_round_trips_through_toml():
    assert read_plan(write_plan(plan())) == plan()


def test_no_auto_is_left_and_every_value_has_a_reason():
    text = write_plan(plan())
    assert '"auto"' not in text
    assert text.count("because") == text.count("source")


def test_what_the_user_sets_wins_and_the_rule_is_told():
    made = plan(
        Wishes(start="timm:resnet18", strategy="head", budget="fast", seed=7,
               given=frozenset({"start", "strategy", "seed"}))
    )  # fmt: skip
    assert (made.start.value, made.start.source, made.start.rule) == (
        "timm:resnet18",
        "user",
        "lite0",
    )
    assert (made.training.seed.value, made.training.seed.rule) == (7, 0)


def test_a_hold_out_is_the_only_fold():
    facts = DataFacts(n=300, n_blocks=300, n_classes=10, smallest_class=30, holdout=60)
    assert plan(facts=facts).head.outer_folds.value == 1


@pytest.mark.parametrize(
    ("text", "words"), [("part = [", "not valid TOML"), ("format = 1", "lacks")]
)
def test_a_broken_plan_names_its_fault(text, words):
    with pytest.raises(PlanError, match=words):
        read_plan(text)


@pytest.mark.parametrize("value", ["auto"])
def test_auto_is_not_a_value(value):
    with pytest.raises(PlanError, match="auto"):
        Choice(value=value, because="x", source="rule")
    with pytest.raises(PlanError, match="reason"):
        Choice(value=1, because="", source="rule")


def test_planning_never_loads_torch():
    code = (
        "import sys, warmstart.planning.build, warmstart.planning.planfile;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
