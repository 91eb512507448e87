"""Parts that join one group after the other, while rows set apart say that it helps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import jobs
from jobs import changed, differing, four, job, planned, state
from warmstart.events import follow
from warmstart.network.ledger import take_digests
from warmstart.training.early_stopping import CANDIDATES, VALIDATIONS, TrainingEnd, held_scores
from warmstart.training.job import TrainingAttempt

SHORT = ("training.epochs=1.7778", "training.batch_size=8")
HELD = np.arange(0, 36, 5)


@pytest.fixture(scope="module")
def training_data(tmp_path_factory):
    with jobs.picture_folder(tmp_path_factory, "unfreezing") as data:
        yield jobs.training_data(data, four)


def learnt(made):
    """What came of a training, the network, and parts that had moved after each update."""
    outfits, marks = [], []
    steps = replace(made, make=lambda: outfits.append(made.make()) or outfits[-1]).learn()

    def mark(event):
        if event.kind != "step":
            return
        now, owners = take_digests(outfits[-1].network), outfits[-1].network.owners
        moved = {owners[n] for n, digest in made.context.digests.items() if now[n] != digest}
        if not marks or moved != marks[-1]:
            marks.append(moved)

    return follow(steps, mark), outfits[-1], marks


def names(training_data):
    return [block.name for block in training_data.extracted.network.blocks]


# ---- without judges ------------------------------------------------------------------------


@pytest.mark.parametrize("n_stages", [1, 2, 4])
def test_parts_join_from_the_top_and_each_moves_once_it_has(training_data, n_stages):
    """As many groups as are asked for."""
    plan = planned(training_data, "full+gradual", SHORT)
    made = job(training_data, plan, end=TrainingEnd(n_stages=n_stages))
    trained, trainable, marks = learnt(made)
    blocks = names(training_data)
    assert len(blocks) == 4
    assert marks == [set(blocks[3 - k :]) for k in range(n_stages)]
    assert changed(made, trainable) == marks[-1]
    assert trained.n_stages == n_stages


def test_where_no_group_is_asked_for_nothing_moves_and_that_is_no_fault(training_data):
    plan = planned(training_data, "full+gradual", SHORT)
    made = job(training_data, plan, end=TrainingEnd(n_stages=0))
    trained, trainable, marks = learnt(made)
    assert (trained.n_stages, trained.guards, marks) == (0, (), [])
    assert differing(state(trainable.model), state(made.make().model)) == []


def test_each_stage_has_its_share_of_the_steps_and_a_curve_of_its_own(training_data):
    plan = planned(
        training_data, "full+gradual", ("training.epochs=4.4444", "training.batch_size=8")
    )
    found = []
    follow(job(training_data, plan, end=TrainingEnd(n_stages=2)).learn(), found.append)
    assert [e.step for e in found] == [*range(1, 11)]  # half of 20
    factors = [e.values["factor"] for e in found]
    assert factors[:5] == factors[5:] == [1.0, 1.0, 0.853553, 0.5, 0.146447]


def test_an_early_look_ends_in_the_middle_of_a_stage(training_data):
    plan = planned(
        training_data, "full+gradual", ("training.epochs=4.4444", "training.batch_size=8")
    )
    found = []
    follow(job(training_data, plan, end=TrainingEnd(validation=3)).learn(), found.append)
    assert len(found) == 12  # of 20: two stages of five, and two steps of the third


# ---- with judges ---------------------------------------------------------------------------


def judged(made):
    """An attempt, and the rows that judge it."""
    attempt = TrainingAttempt(made, 1.0, ())
    return attempt, attempt.unfreezing._held


def test_rows_are_set_apart_to_judge_and_are_not_learnt_from(training_data):
    made = job(training_data, planned(training_data, "full+gradual", SHORT), HELD)
    attempt, apart = judged(made)
    fit = attempt.unfreezing.fit_rows
    assert sorted([*fit, *apart]) == made.rows.tolist()
    assert 4 <= len(apart) <= 8
    groups = made.context.groups
    assert not set(groups[fit]) & set(groups[apart])
    for strategy, end in (("full", None), ("full+gradual", TrainingEnd())):
        other = job(training_data, planned(training_data, strategy, SHORT), HELD, end=end)
        assert judged(other)[0].unfreezing.fit_rows.tolist() == made.rows.tolist()


def test_groups_join_while_the_judges_say_that_it_helps(training_data):
    plan = planned(training_data, "full+gradual", (*SHORT, *jobs.PLAIN), lr=1e-3)
    made = job(training_data, plan)
    trained, trainable, _ = learnt(made)
    assert 1 <= trained.n_stages <= 4
    assert changed(made, trainable) == set(names(training_data)[4 - trained.n_stages :])
    _, apart = judged(made)
    labels = made.context.targets(apart)
    now, before = (
        float(cross_entropy(torch.from_numpy(held_scores(o, made.context, apart)), labels))
        for o in (trainable, made.make())
    )
    assert now < before


def test_a_group_that_made_it_worse_is_as_it_was_and_that_is_no_fault(training_data):
    """So high a rate ruins the first stage: nothing of it may stay, in any part."""
    plan = planned(training_data, "full+gradual", (*SHORT, "training.ema_decay=0.9"), lr=0.02)
    made = job(training_data, plan, HELD)
    trained, trainable, marks = learnt(made)
    assert marks  # it did move, meanwhile
    assert (trained.n_stages, trained.guards, trained.has_failed) == (0, (), False)
    assert changed(made, trainable) == set()
    begun = made.make()
    assert differing(state(trainable.model), state(begun.model)) == []
    expected = held_scores(begun, made.context, HELD)
    for scores in trained.scores:
        np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)


class Judges:
    """Say yes to so many groups."""

    def __init__(self, yes):
        self.yes = yes

    def __call__(self, unfreezing, number):
        if number >= self.yes:
            trainer = unfreezing.validation.trainer
            trainer.put(unfreezing._weights[0])
            for own, old in zip(trainer.mean, unfreezing._weights[1], strict=True):
                own.copy_(old)
            return False
        unfreezing._save_weights()
        unfreezing.n_joined = number + 1
        return True


@pytest.mark.parametrize("yes", [1, 2, 3])
def test_what_a_group_that_did_not_join_said_is_forgotten(training_data, monkeypatch, yes):
    """Every candidate is where a training of that route, with the groups that joined, ends."""
    settings = ("training.epochs=4.4444", "training.batch_size=8", "training.augmentations=2")
    plan = planned(training_data, "full+gradual", settings, lr=0.002)
    made = job(training_data, plan, HELD)
    monkeypatch.setattr(
        "warmstart.training.early_stopping.GradualUnfreezing.accept",
        lambda unfreezing, number: Judges(yes)(unfreezing, number),
    )
    trained, trainable, _ = learnt(made)
    assert trained.n_stages == yes
    ended = held_scores(trainable, made.context, HELD)
    for candidate, end in enumerate(CANDIDATES[:VALIDATIONS]):
        if end.n_steps(20) >= 5 * yes:  # a stage has five steps
            np.testing.assert_allclose(trained.scores[candidate], ended, rtol=1e-4, atol=1e-4)
        else:
            assert not np.allclose(trained.scores[candidate], ended, rtol=1e-4, atol=1e-4)
    assert not np.allclose(trained.scores[-1], ended)  # a quarter of the way there
