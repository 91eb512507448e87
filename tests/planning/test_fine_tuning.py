"""Numbers from choices; the choices themselves are tested with the plans that hold them."""

from dataclasses import replace

import pytest

from plans import FACTS, a_choice, network_facts, plan_for
from warmstart.errors import PlanError
from warmstart.planning.fine_tuning import lr_spread
from warmstart.planning.strategy import parse
from warmstart.records.inputs import Preprocessing, Sound


def test_a_spread_is_learning_rate_decay_and_whether_all_is_new():
    for strategy, is_scratch in (("full", False), ("scratch", True)):
        training = plan_for(strategy).training
        spread = lr_spread(training, parse(strategy))
        assert spread.base == training.lr.value
        assert (spread.decay, spread.is_scratch) == (training.layer_decay.value, is_scratch)


def test_a_plan_that_lacks_its_learning_rate_is_refused():
    with pytest.raises(PlanError, match=r"without training.lr or training.layer_decay; make a new"):
        lr_spread(plan_for("head").training, parse("head"))


@pytest.mark.parametrize("value", ["0.1", (1, 2)])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(PlanError, match="where a number belongs; write a number"):
        _ = a_choice(value).number


def test_sounds_are_shifted_and_masked_and_never_mirrored():
    sound = Sound(
        sample_rate=8000,
        seconds=1.0,
        window=256,
        hop=35,
        mels=128,
        low=20.0,
        high=4000.0,
        range_db=30.0,
    )
    prep = Preprocessing(size=(64, 64), resize=64, mean=(0.5,), std=(0.5,), sound=sound)
    training = plan_for("full", network=network_facts(preprocessing=prep)).training
    assert (training.flip.value, training.crop.value) == (False, 0.8)
    assert (training.time_shift.value, training.spec_augment.value) == (0.1, 0.2)
    bare = network_facts(preprocessing=replace(prep, sound=None))
    training = plan_for("full", network=bare).training
    assert (training.flip.value, training.time_shift, training.spec_augment) == (True, None, None)


def test_a_number_is_not_learned_from_mirrored_images():
    """A mirrored image of an angle shows another angle; a small crop changes sizes."""
    chosen = {
        task: plan_for("last:1", replace(FACTS, task=task)).training
        for task in ("classify", "multilabel", "regress")
    }
    assert {t: (c.crop.value, c.flip.value) for t, c in chosen.items()} == {
        "classify": (0.35, True),
        "multilabel": (0.35, True),
        "regress": (0.8, False),
    }
    assert "an angle" in chosen["regress"].flip.because
