"""Training step by step: single lessons against slow definitions, then whole runs."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from drawing import fill
from looking import scene_of
from plans import plan_for
from tiny import PREP, Convolutions, bytes_of, fit, lines, network
from warmstart.errors import TrainingError
from warmstart.events import drain, follow
from warmstart.joints import rows
from warmstart.joints.lesson import Lesson, Room, scores_of
from warmstart.joints.live import read_pixels
from warmstart.joints.outfit import outfit
from warmstart.network.ledger import take_digests
from warmstart.planning.facts import NetworkFacts
from warmstart.planning.schedule import schedule
from warmstart.planning.settings import apply_settings
from warmstart.training.head import fit_head
from warmstart.training.views import Views, draw_batches, vary
from warmstart.verbs.predictor import load

PLAIN = ("training.crop=1.0", "training.flip=false")
FEW = ("training.passes=32", "training.batch=8")


# ---- one training ------------------------------------------------------------------------


class Four(nn.Module):
    """Four layers to join one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 8, 3, stride=2)
        self.c, self.d = nn.Conv2d(8, 12, 3), nn.Conv2d(12, 16, 3)
        self.out = nn.Linear(16, 5)

    def forward(self, x):
        x = torch.relu(self.b(torch.relu(self.a(x))))
        x = torch.relu(self.d(torch.relu(self.c(x))))
        return self.out(x.mean((2, 3)))


def four() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Four().eval()


@pytest.fixture
def lesson_of(pictures):
    """Makes a lesson on all 36 pictures."""
    scenes = {}

    def make(strategy, settings=(), module=network, lr=None, **options):
        if module not in scenes:
            scenes[module] = scene_of(pictures, module(), budget="fast")
        scene = scenes[module]
        facts = NetworkFacts(record=scene.look.network.record)
        plan = plan_for(strategy, scene.arranged.facts(), facts, lr=lr)
        plan = apply_settings(plan, settings)
        everything = np.arange(len(scene.arranged.learn))
        read = scene.look.reader(scene.arranged.learn)
        heads = rows.heads(plan, scene.profiles, read, len(everything))
        head = drain(fit_head(heads, rows.pose(scene.arranged, plan)))
        room = Room(
            pixels=read_pixels(scene.collection, scene.arranged.learn, PREP),
            labels=scene.arranged.labels, blocks=scene.arranged.blocks(), prep=PREP,
            before=take_digests(scene.look.network), n_lessons=3,
        )  # fmt: skip
        made = outfit(scene.look.network, plan, head, read, 0)
        options = {"number": 1, **options}
        return Lesson(outfit=made, schedule=schedule(plan), room=room, rows=everything, **options)

    return make


def changed(lesson):
    """Parts of which some tensor is not what it was in the start."""
    now, before = take_digests(lesson.outfit.network), lesson.room.before
    owners = lesson.outfit.network.owners
    return {owners[name] for name in before if now[name] != before[name]}


def test_a_lesson_is_the_loop_that_one_would_write(lesson_of):
    """SGD on what `last:1` lets move, statistics at rest, vectors without decay."""
    settings = (
        "training.passes=48", "training.batch=12", "training.optimizer=sgd",
        "training.weight_decay=0.01",
    )  # fmt: skip
    lesson = lesson_of("last:1", settings, lr=0.01)
    hand = lesson_of("last:1", settings, lr=0.01).outfit.model
    drain(lesson.learn())
    trunk, head = hand.trunk, hand.head
    hand.eval()
    for parameter in hand.parameters():
        parameter.requires_grad = False
    moving = [trunk.second.weight, head.weight]
    vectors = [trunk.second.bias, trunk.again.weight, trunk.again.bias, head.bias]
    for parameter in (*moving, *vectors):
        parameter.requires_grad = True
    rates = lesson.outfit.rates
    assert rates.keys() == {lesson.outfit.network.parts[-1].name, "output"}
    assert set(rates.values()) == {0.01}
    optimizer = torch.optim.SGD(
        [{"params": moving, "weight_decay": 0.01}, {"params": vectors}], lr=0.01, momentum=0.9
    )
    rng = np.random.default_rng([0, 1])
    for step, drawn in enumerate(draw_batches(36, 12, 4, rng)):
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.01 * (
            1.0 if step == 0 else np.cos(np.pi / 2 * (step - 1) / 3) ** 2
        )
        images = vary(lesson.room.inputs(drawn), Views(0.35, True), rng)
        loss = nn.functional.cross_entropy(hand(images), lesson.room.targets(drawn))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    ours, theirs = lesson.outfit.model.state_dict(), hand.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-6)
    assert changed(lesson) == {lesson.outfit.network.parts[-1].name}


def test_inputs_are_the_pictures_as_the_start_wants_them(lesson_of):
    room = lesson_of("last:1").room
    some = np.array([3, 1, 30])
    slow = (torch.from_numpy(room.pixels[some]).double() / 255 - 0.5) / 0.5
    found = room.inputs(some)
    assert found.shape == (3, 3, 32, 32)
    torch.testing.assert_close(found.double(), slow.permute(0, 3, 1, 2), rtol=1e-5, atol=1e-6)
    assert room.targets(some).tolist() == room.labels[some].tolist()


def test_scores_do_not_depend_on_how_many_are_asked_for(lesson_of):
    lesson = lesson_of("full")
    lesson.outfit.model.train()
    whole = scores_of(lesson.outfit, lesson.room, lesson.rows)
    assert (whole.shape, whole.dtype) == ((36, 3), np.float64)
    few = scores_of(lesson.outfit, lesson.room, lesson.rows[30:])
    np.testing.assert_allclose(whole[30:], few, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strategy", ["last:1", "full", "head+add", "scratch", "full+gradual"])
def test_the_same_lesson_ends_with_the_same_bytes_and_another_seed_does_not(lesson_of, strategy):
    lessons = [lesson_of(strategy, FEW) for _ in range(2)]
    lessons.append(replace(lesson_of(strategy, FEW), number=2))
    torch.manual_seed(11)
    state = torch.get_rng_state()
    for lesson in lessons:
        drain(lesson.learn())
    assert torch.equal(torch.get_rng_state(), state)
    one, again, other = (lesson.outfit.model.state_dict() for lesson in lessons)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_steps_are_counted_through_all_lessons(lesson_of):
    found = []
    follow(lesson_of("last:1", FEW).learn(), found.append)
    assert {(event.stage, event.kind) for event in found} == {("tune", "step")}
    assert [event.step for event in found] == [5, 6, 7, 8]  # the second of three lessons of 4
    assert {event.of for event in found} == {12}
    assert all(np.isfinite(event.values["loss"]) for event in found)


def test_what_was_frozen_and_moved_ships_nothing(lesson_of):
    lesson = lesson_of("last:1", FEW)
    steps = lesson.learn()
    next(steps)
    with torch.no_grad():
        lesson.outfit.network.trunk.norm.running_mean += 1  # a buffer, which no optimizer holds
    with pytest.raises(TrainingError, match=r"1 frozen tensors changed .*norm.running_mean"):
        drain(steps)


def test_a_rate_that_is_far_too_high_is_named(lesson_of):
    with pytest.raises(TrainingError, match="training diverged: the loss is nan at step 2"):
        drain(lesson_of("last:1", FEW, lr=1e30).learn())


# ---- parts that join ---------------------------------------------------------------------


def joined(lesson):
    """Run a lesson; (parts that had moved after each stage that was begun, what it returned)."""
    marks = []

    def mark(event):
        now = take_digests(lesson.outfit.network)
        owners = lesson.outfit.network.owners
        moved = {owners[n] for n, digest in lesson.room.before.items() if now[n] != digest}
        if not marks or moved != marks[-1]:
            marks.append(moved)

    return marks, follow(lesson.learn(), mark)


def test_parts_join_from_the_top_and_each_moves_once_it_has(lesson_of):
    lesson = lesson_of("full+gradual", ("training.passes=64", "training.batch=8"), four, n_stages=4)
    marks, taught = joined(lesson)
    names = [part.name for part in lesson.outfit.network.parts]
    assert len(names) == 4
    assert marks == [set(names[3:]), set(names[2:]), set(names[1:]), set(names)]
    assert taught.n_stages == 4


def test_no_more_groups_join_than_are_asked_for(lesson_of):
    lesson = lesson_of("full+gradual", ("training.passes=64", "training.batch=8"), four, n_stages=2)
    marks, taught = joined(lesson)
    names = [part.name for part in lesson.outfit.network.parts]
    assert marks[-1] == changed(lesson) == set(names[2:])
    assert taught.n_stages == 2


def test_groups_join_while_validation_improves(lesson_of):
    settings = ("training.passes=64", "training.batch=8", *PLAIN)
    lesson = lesson_of("full+gradual", settings, four, lr=1e-4)
    taught = drain(lesson.learn())
    before = lesson_of("full+gradual", settings, four, lr=1e-4)
    parts = [p.name for p in lesson.outfit.network.parts]
    assert 1 <= taught.n_stages <= 4
    assert changed(lesson) <= set(parts[4 - taught.n_stages :])
    fit, judged = lesson._set_apart()
    assert sorted([*fit, *judged]) == [*range(36)]
    assert 5 <= len(judged) <= 9
    assert taught.outfit is lesson.outfit
    assert lesson._loss(judged) <= before._loss(judged)


def test_a_group_that_made_it_worse_is_as_it_was(lesson_of):
    """So high a rate ruins the first stage: nothing of it may stay, in any part."""
    settings = ("training.passes=64", "training.batch=8", "training.optimizer=sgd")
    lesson = lesson_of("full+gradual", settings, four, lr=5.0)
    untouched = lesson_of("full+gradual", settings, four, lr=5.0)
    expected = scores_of(untouched.outfit, untouched.room, untouched.rows)
    taught = drain(lesson.learn())
    assert taught.n_stages == 0
    found = scores_of(lesson.outfit, lesson.room, lesson.rows)
    assert changed(lesson) == set()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_the_last_training_repeats_what_was_validated(lesson_of):
    """Two groups of four: the same two stages as where validation had stopped there."""
    settings = ("training.passes=64", "training.batch=8")
    found = []
    follow(lesson_of("full+gradual", settings, four, n_stages=2).learn(), found.append)
    whole = []
    follow(lesson_of("full+gradual", settings, four, n_stages=4).learn(), whole.append)
    assert len(found) == len(whole) // 2


# ---- whole runs --------------------------------------------------------------------------

STRATEGIES = (
    "last:1", "frozen:1", "full", "full+gradual", "head+add", "last:1+add", "full+lora", "scratch",
)  # fmt: skip
SETTINGS = {"training.passes": 64, "training.batch": 8}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of each strategy, made when it is first asked for."""
    root = tmp_path_factory.mktemp("tuned")
    data, made = root / "split", {}
    fill(data / "train", {"blue": 12, "green": 12, "red": 12})
    fill(data / "test", {"blue": 5, "green": 5, "red": 5}, seed=1)

    def run(strategy, again=""):
        if strategy + again not in made:
            if "lora" in strategy:
                pytest.importorskip("peft")
            seen = []
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("WARMSTART_CACHE", str(root / f"cache{again}"))
                made[strategy + again] = fit(
                    data, strategy=strategy, settings=SETTINGS if strategy != "head" else {},
                    out=root / again / strategy.replace(":", "-") / "split",
                    on_event=seen.append,
                ), seen  # fmt: skip
        return made[strategy + again]

    return run


each = pytest.mark.parametrize("strategy", STRATEGIES)


def actions_of(run):
    return {part.name: part.action.value for part in run.plan.parts}


@each
def test_a_tuned_run_is_done_and_holds_what_a_run_holds(runs, strategy):
    run, _ = runs(strategy)
    assert bytes_of(run.path).keys() == bytes_of(runs("head")[0].path).keys()
    assert (run.path / "DONE").exists()
    assert run.summary.shipped.strategy == run.plan.strategy.value
    assert "your choice" in run.summary.shipped.why
    assert json.loads((run.path / "model" / "config.json").read_text())["strategy"] == (
        run.plan.strategy.value
    )
    names = [p["name"] for p in json.loads((run.path / "network.json").read_text())["parts"]]
    assert [*names, "output"] == [part.name for part in run.plan.parts]
    assert ("added" in names) == ("add" in strategy)


@each
def test_what_is_frozen_is_what_it_was_and_what_is_not_has_moved(runs, strategy):
    run, seen = runs(strategy)
    (end,) = [event for event in seen if (event.stage, event.kind) == ("tune", "end")]
    body = [part.name for part in run.plan.parts[:-1]]
    joined = body[len(body) - end.values["joined"] :] if "gradual" in strategy else body
    tensors = load_file(run.path / "model" / "model.safetensors")
    before = network().state_dict()
    rows = json.loads((run.path / "weights_ledger.json").read_text())["rows"]
    owner = {row["tensor"]: row["part"] for row in rows}
    actions = actions_of(run)
    frozen = 0
    for name, tensor in before.items():
        if name.startswith("out."):
            continue
        is_same = torch.equal(tensors[f"trunk.{name}"], tensor)
        if actions[owner[name]] == "frozen":
            assert is_same, name
            frozen += tensor.numel()
        if "running" in name and actions[owner[name]] != "fresh":
            assert is_same, name
        has_moved = actions[owner[name]] != "frozen" and owner[name] in joined
        if name.endswith("weight") and tensor.ndim > 1 and has_moved:
            assert not is_same, name
    proof = run.summary.frozen
    assert proof.identical
    assert proof.parameters + proof.buffers == frozen
    assert (frozen > 0) == ("frozen" in actions.values())


@each
def test_the_ledger_adds_up_to_both_networks(runs, strategy):
    run, seen = runs(strategy)
    rows = json.loads((run.path / "weights_ledger.json").read_text())["rows"]
    old = sum(tensor.numel() for tensor in network().state_dict().values())
    tensors = load_file(run.path / "model" / "model.safetensors")
    assert sum(row["numel"] for row in rows if row["fate"] != "new") == old
    assert sum(row["numel"] for row in rows if row["fate"] != "dropped") == sum(
        tensor.numel() for tensor in tensors.values()
    )
    fates = {
        "frozen": {"frozen"}, "tuned": {"trained", "frozen"}, "low-rank": {"merged", "frozen"},
        "fresh": {"dropped", "new"}, "added": {"new"},
    }  # fmt: skip
    actions = actions_of(run)
    for row in rows:
        assert row["fate"] in fates.get(actions.get(row["part"]), {"dropped", "new"}), row
    told = {row["fate"] for row in rows}
    joined = [e.values["joined"] for e in seen if (e.stage, e.kind) == ("tune", "end")]
    if "tuned" in actions.values() and joined != [0]:
        assert "trained" in told
    if "low-rank" in actions.values():
        assert "merged" in told


@each
def test_nothing_is_left_to_be_decided_in_the_plan(runs, strategy):
    run, _ = runs(strategy)
    assert '"auto"' not in (run.path / "plan.toml").read_text()
    assert (run.plan.training.passes.value, run.plan.training.passes.source) == (64, "user")
    output = run.plan.parts[-1]
    assert (output.name, output.action.value) == ("output", "replaced")
    for part in run.plan.parts:
        assert (part.rate is None) == (part.action.value == "frozen")


@each
def test_step_zero_is_the_head_alone_on_the_rows_that_the_estimate_is_made_on(runs, strategy):
    """The same heads on the same held-out rows, whatever is trained after them."""
    run, _ = runs(strategy)
    assert run.summary.step_zero == runs("last:1")[0].summary.step_zero
    assert run.summary.step_zero.n == run.estimate.n
    assert run.summary.step_zero.method == run.estimate.method
    assert runs("head")[0].summary.step_zero is None


def test_groups_that_did_not_join_are_not_said_to_be_tuned(runs):
    run, seen = runs("full+gradual")
    (end,) = [event for event in seen if (event.stage, event.kind) == ("tune", "end")]
    why = run.summary.shipped.why
    assert ("tuned" in why) == (end.values["joined"] > 0)
    assert run.summary.shipped.strategy == "full+gradual"
    assert run.plan.strategy.value == "full+gradual"


@each
def test_predictions_cover_what_was_held_out_and_the_test_part(runs, strategy):
    run, _ = runs(strategy)
    found = lines(run.path, "predictions.jsonl")
    examples = json.loads((run.path / "data.json").read_text())["examples"]
    tested = [example["id"] for example in examples if example["split"] == "test"]
    assert [line["id"] for line in found if line["split"] == "test"] == tested
    held = [line for line in found if line["split"] == "oof"]
    assert (run.estimate.method, run.estimate.n) == ("holdout", len(held))
    assert 6 <= len(held) <= 9  # a fifth of 36
    assert {line["fold"] for line in held} == {0}
    assert run.estimate.value == np.mean([line["label"] == line["target"] for line in held])
    for line in found:
        assert sum(line["scores"].values()) == pytest.approx(1, abs=5e-6)


@each
def test_the_shipped_model_gives_the_answers_that_were_written_down(runs, strategy):
    run, _ = runs(strategy)
    found = {p["id"]: p for p in lines(run.path, "predictions.jsonl") if p["split"] == "test"}
    assert run.test.n == len(found) == 15
    hits = [line["label"] == line["target"] for line in found.values()]
    assert run.test.accuracy == pytest.approx(np.mean(hits))
    root = run.path
    while not (root / "split" / "test").is_dir():
        root = root.parent
    answers = load(run.path, network=network()).predict([root / "split" / id for id in found])
    for answer, line in zip(answers, found.values(), strict=True):
        assert answer.label == line["label"]
        assert answer.scores == pytest.approx(line["scores"], abs=2e-5)


@each
def test_steps_are_told_in_order_through_all_trainings(runs, strategy):
    _, seen = runs(strategy)
    steps = [event for event in seen if (event.stage, event.kind) == ("tune", "step")]
    numbers = [event.step for event in steps]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 1
    assert {event.of for event in steps} == {2 * 64 // 8}
    if "gradual" in strategy:  # groups that do not join leave their steps out
        assert numbers[-1] <= steps[-1].of
    else:
        assert numbers == [*range(1, 17)]
    kinds = [event.kind for event in seen if event.stage == "tune"]
    assert (kinds[0], kinds[-1]) == ("begin", "end")


def test_a_head_alone_says_nothing_of_training(runs):
    run, seen = runs("head")
    assert not [event for event in seen if event.stage == "tune"]
    assert run.plan.training.passes is None
    assert run.summary.seconds["tune"] < 0.1


@pytest.mark.parametrize("strategy", ["last:1", "full+gradual", "last:1+add", "scratch"])
def test_a_run_made_twice_ships_the_same_bytes(runs, strategy):
    first, second = (runs(strategy, again)[0] for again in ("", "again"))
    assert first.path != second.path
    ours, theirs = bytes_of(first.path), bytes_of(second.path)
    differing = {name for name in ours if ours[name] != theirs[name]}
    assert differing <= {"progress.jsonl", "summary.json"}
    assert first.estimate == second.estimate


def test_balanced_holds_out_every_part_in_turn(pictures):
    run = fit(pictures, strategy="last:1", budget="balanced", settings={"training.passes": 32})
    found = lines(run.path, "predictions.jsonl")
    assert (run.estimate.method, run.estimate.n) == ("nested-cv", 36)
    assert run.plan.training.folds.value == 3
    assert {line["fold"] for line in found} == {0, 1, 2}
    assert len({line["id"] for line in found}) == 36


def test_a_part_set_apart_is_the_only_one_held_out(tmp_path):
    root = tmp_path / "given"
    fill(root / "train", {"blue": 12, "green": 12, "red": 12})
    fill(root / "val", {"blue": 4, "green": 4, "red": 4}, seed=3)
    run = fit(root, strategy="last:1", budget="balanced", settings={"training.passes": 32})
    assert (run.estimate.method, run.estimate.n) == ("holdout", 12)
    assert all(line["id"].startswith("val/") for line in lines(run.path, "predictions.jsonl"))
    assert run.summary.data.train == 48


def test_a_group_is_never_on_both_sides(tmp_path, pictures):
    table = ["file,kind,person"]
    table += [f"{path.relative_to(pictures)},{path.parent.name},{number % 9}"
              for number, path in enumerate(sorted(pictures.rglob("*.png")))]  # fmt: skip
    (pictures / "labels.csv").write_text("\n".join(table) + "\n")
    run = fit(pictures / "labels.csv", label="kind", group="person", strategy="last:1",
              settings={"training.passes": 32, "training.folds": 3})  # fmt: skip
    examples = json.loads((run.path / "data.json").read_text())["examples"]
    group = {example["id"]: example["group"] for example in examples}
    folds: dict[str, set[int]] = {}
    for line in lines(run.path, "predictions.jsonl"):
        folds.setdefault(group[line["id"]], set()).add(line["fold"])
    assert len(folds) == 9
    assert all(len(numbers) == 1 for numbers in folds.values())


# ---- honesty -----------------------------------------------------------------------------


def unrelated(n, k, seed, balanced):
    """Pictures, and labels that have nothing to do with them."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    labels = rng.permutation(np.arange(n) % k) if balanced else rng.integers(0, k, n)
    return images, [str(label) for label in labels]


# Left out, a row of equal classes looks like the others: scores that say nothing then say the
# opposite, and their temperature is 0.


@pytest.mark.parametrize(("strategy", "kind", "lr", "seed", "balanced"), [
    ("last:1", "convolutions", 0.03, 0, False),
    ("full", "layers", 0.003, 2, False),
    ("full", "layers", 0.003, 9, False),
    ("last:1", "convolutions", 0.03, 0, True),
])  # fmt: skip
def test_labels_that_mean_nothing_stay_at_chance(strategy, kind, lr, seed, balanced):
    data = unrelated(60, 3, seed, balanced)
    settings = {
        "training.passes": 640, "training.batch": 16, "training.folds": 3, "training.crop": 1.0,
        "training.flip": False,
    }  # fmt: skip
    run = fit(data, kind=kind, strategy=strategy, lr=lr, settings=settings, seed=seed)
    assert run.estimate.n == 60
    assert run.estimate.low < 1 / 3 < run.estimate.high
    assert run.summary.step_zero.low < 1 / 3 < run.summary.step_zero.high
    if kind == "layers":  # it learnt the labels by heart, and the estimate was not fooled
        answers = run.predict(data[0])
        learnt = np.mean([a.label == label for a, label in zip(answers, data[1], strict=True)])
        assert learnt > 0.9


@pytest.mark.parametrize("seed", [5, 7])
def test_the_head_that_a_fold_begins_with_has_not_seen_its_rows(seed):
    """A penalty so small that a head knows its own rows by heart, and hardly a step after it."""
    settings = {
        "training.passes": 8, "training.batch": 8, "training.folds": 3,
        "head.penalties": 1e-4, "head.candidates": "equal",
    }  # fmt: skip
    data = unrelated(36, 2, seed, False)
    run = fit(data, kind="layers", strategy="full", lr=1e-6, settings=settings, seed=seed)
    assert run.estimate.n == 36
    assert run.estimate.low < 1 / 2 < run.estimate.high


def test_a_last_step_that_ruins_the_network_is_a_divergence(pictures):
    with pytest.raises(TrainingError, match="diverged"):
        fit(pictures, strategy="last:1", lr=1e30, settings={"training.passes": 8})


def test_a_divergence_leaves_its_reason_in_the_folder(pictures, tmp_path):
    with pytest.raises(TrainingError, match=r"diverged: the loss is nan at step 2; .*\(--lr\)"):
        fit(pictures, strategy="last:1", lr=1e30, settings=SETTINGS, out=tmp_path / "out")
    assert "diverged" in (tmp_path / "out" / "FAILED").read_text()
    assert not (tmp_path / "out" / "model").exists()


def test_the_users_own_network_is_left_as_it_was(pictures):
    module = network()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    fit(pictures, start=module, strategy="full", lr=0.01, settings=SETTINGS)
    after = module.state_dict()
    assert isinstance(module, Convolutions)
    assert not module.training
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(parameter.requires_grad for parameter in module.parameters())
