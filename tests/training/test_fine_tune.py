"""Whole runs that train: what they hold, what they say, how honest it is."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hue_images import fill
from tiny import Convolutions, bytes_of, fit, lines, network
from warmstart.run.predictor import load
from warmstart.terminal import result_text

# ---- whole runs --------------------------------------------------------------------------

STRATEGIES = (
    "last:1",
    "frozen:1",
    "full",
    "full+gradual",
    "head+add",
    "last:1+add",
    "full+lora",
    "scratch",
)
SETTINGS = {"training.epochs": 1.7778, "training.batch_size": 8}


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
                longer = {"training.epochs": 7.1111} if strategy == "scratch" else {}
                made[strategy + again] = (
                    fit(
                        data,
                        strategy=strategy,
                        settings={**SETTINGS, **longer} if strategy != "head" else {},
                        out=root / again / strategy.replace(":", "-") / "split",
                        on_event=seen.append,
                    ),
                    seen,
                )
        return made[strategy + again]

    return run


each = pytest.mark.parametrize("strategy", STRATEGIES)


def actions_of(run):
    return {block.name: block.action.value for block in run.plan.blocks}


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
    names = [p["name"] for p in json.loads((run.path / "network.json").read_text())["blocks"]]
    assert [*names, "output"] == [block.name for block in run.plan.blocks]
    assert ("added" in names) == ("add" in strategy)


@each
def test_what_is_frozen_is_what_it_was_and_what_is_not_has_moved(runs, strategy):
    run, seen = runs(strategy)
    (end,) = [event for event in seen if (event.stage, event.kind) == ("fine_tune", "end")]
    body = [block.name for block in run.plan.blocks[:-1]]
    joined = body[len(body) - end.values["joined"] :] if "gradual" in strategy else body
    tensors = load_file(run.path / "model" / "model.safetensors")
    before = network().state_dict()
    statistics = {name for name, _ in network().named_buffers()}
    rows = json.loads((run.path / "weights_ledger.json").read_text())["rows"]
    owner = {row["tensor"]: row["block"] for row in rows}
    actions = actions_of(run)
    told = {row["tensor"]: row for row in rows if row["fate"] in ("frozen", "unchanged")}
    same, frozen = set(), 0
    for name, tensor in before.items():
        if name.startswith("out."):
            continue
        is_same = torch.equal(tensors[f"backbone.{name}"], tensor)
        if actions[owner[name]] == "frozen" or owner[name] not in joined:
            assert is_same, name
            frozen += 1
        if is_same and actions[owner[name]] != "fresh":
            same.add(name)
        if "running" in name and actions[owner[name]] != "fresh":
            assert is_same, name
        has_moved = actions[owner[name]] != "frozen" and owner[name] in joined
        if name.endswith("weight") and tensor.ndim > 1 and has_moved:
            assert not is_same, name
    proof = run.summary.frozen
    assert proof.identical
    assert told.keys() == same  # statistics of tuned layers too, and what low-rank leaves out
    assert (frozen > 0) == ("frozen" in actions.values() or len(joined) < len(body))
    sizes = {"weights": 0, "statistics": 0}
    for name in same:
        kind = "statistics" if name in statistics else "weights"
        assert told[name]["buffer"] == (name in statistics)
        sizes[kind] += before[name].numel()
    assert (proof.parameters, proof.buffers) == (sizes["weights"], sizes["statistics"])
    has_held = frozen or "low-rank" in actions.values()
    assert (proof.parameters > 0) == bool(has_held)


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
        "frozen": {"frozen"},
        "tuned": {"trained", "frozen"},
        "low-rank": {"merged", "frozen"},
        "fresh": {"dropped", "new"},
        "added": {"new"},
    }
    actions = actions_of(run)
    for row in rows:
        assert row["fate"] in fates.get(actions.get(row["block"]), {"dropped", "new"}), row
    told = {row["fate"] for row in rows}
    joined = [e.values["joined"] for e in seen if (e.stage, e.kind) == ("fine_tune", "end")]
    if "tuned" in actions.values() and joined != [0]:
        assert "trained" in told
    if "low-rank" in actions.values():
        assert "merged" in told


@each
def test_nothing_is_left_to_be_decided_in_the_plan(runs, strategy):
    run, _ = runs(strategy)
    assert '"auto"' not in (run.path / "plan.toml").read_text()
    assert run.plan.samples_seen == (256 if strategy == "scratch" else 64)
    assert run.plan.training.epochs.source == "user"
    output = run.plan.blocks[-1]
    assert (output.name, output.action.value) == ("output", "replaced")
    for block in run.plan.blocks:
        assert (block.lr is None) == (block.action.value == "frozen")


@each
def test_the_linear_probe_is_that_of_the_rows_that_the_estimate_is_made_on(runs, strategy):
    """The same linear probe on the same held-out rows, whatever is trained beside it."""
    run, _ = runs(strategy)
    probe, gain = run.summary.linear_probe, run.summary.fine_tuning_gain
    assert probe == runs("last:1")[0].summary.linear_probe
    assert probe.n == run.estimate.n
    assert gain.value == pytest.approx(run.estimate.value - probe.value)
    assert gain.low <= gain.value <= gain.high
    assert run.summary.own_head is None
    plain = runs("head")[0].summary
    assert (plain.linear_probe, plain.fine_tuning_gain) == (plain.estimate, None)


def test_groups_that_did_not_join_are_not_said_to_be_tuned(runs):
    run, seen = runs("full+gradual")
    (end,) = [event for event in seen if (event.stage, event.kind) == ("fine_tune", "end")]
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
    steps = [event for event in seen if event.kind == "step" and "job" in event.values]
    numbers = [event.step for event in steps]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 1
    each = (256 if strategy == "scratch" else 64) // 8
    held_once = {8: 6, 32: 26}[each]  # 29 of 36 pictures, passed as often
    assert {event.of for event in steps} == {held_once + each}
    first, last = ([e.step for e in steps if e.values["job"] == n] for n in (1, 2))
    if "gradual" in strategy:  # groups that do not join leave their steps out
        assert numbers[-1] <= held_once + each
    else:
        assert first == [*range(1, held_once + 1)]
        assert last == [*range(held_once + 1, held_once + 1 + len(last))]  # as far as was best
    looks = [e.values for e in steps if "val" in e.values]
    assert looks
    assert all(0 <= v["val"] <= 1 and v["val_loss"] > 0 for v in looks)
    kinds = [event.kind for event in seen if event.stage == "fine_tune"]
    assert (kinds[0], kinds[-1]) == ("begin", "end")


def test_a_head_alone_says_nothing_of_training(runs):
    run, seen = runs("head")
    assert not [event for event in seen if event.stage == "fine_tune"]
    assert run.plan.training.epochs is None
    assert run.summary.seconds["fine_tune"] < 0.1


@pytest.mark.parametrize("strategy", ["last:1", "full+gradual", "last:1+add", "scratch"])
def test_a_run_made_twice_ships_the_same_bytes(runs, strategy):
    first, second = (runs(strategy, again)[0] for again in ("", "again"))
    assert first.path != second.path
    ours, theirs = bytes_of(first.path), bytes_of(second.path)
    differing = {name for name in ours if ours[name] != theirs[name]}
    assert differing <= {"progress.jsonl", "summary.json", "request.json", "report.html"}
    assert first.estimate == second.estimate


def test_balanced_holds_out_every_part_in_turn(pictures):
    run = fit(pictures, strategy="last:1", budget="balanced", settings={"training.epochs": 0.8889})
    assert "was not tried" not in run.verdict.sentence
    found = lines(run.path, "predictions.jsonl")
    assert (run.estimate.method, run.estimate.n) == ("nested-cv", 36)
    assert run.plan.training.folds.value == 5
    assert {line["fold"] for line in found} == {0, 1, 2, 3, 4}
    assert len({line["id"] for line in found}) == 36


def test_a_part_set_apart_is_the_only_one_held_out(tmp_path):
    root = tmp_path / "given"
    fill(root / "train", {"blue": 12, "green": 12, "red": 12})
    fill(root / "val", {"blue": 4, "green": 4, "red": 4}, seed=3)
    run = fit(root, strategy="last:1", budget="balanced", settings={"training.epochs": 0.8889})
    assert (run.estimate.method, run.estimate.n) == ("holdout", 12)
    assert all(line["id"].startswith("val/") for line in lines(run.path, "predictions.jsonl"))
    assert run.summary.data.train == 48


def test_a_group_is_never_on_both_sides(tmp_path, pictures):
    table = ["file,kind,person"]
    table += [
        f"{path.relative_to(pictures)},{path.parent.name},{number % 9}"
        for number, path in enumerate(sorted(pictures.rglob("*.png")))
    ]
    (pictures / "labels.csv").write_text("\n".join(table) + "\n")
    run = fit(
        pictures / "labels.csv",
        label="kind",
        group="person",
        strategy="last:1",
        settings={"training.epochs": 0.8889, "training.folds": 3},
    )
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


@pytest.mark.parametrize(
    ("strategy", "kind", "lr", "seed", "balanced"),
    [
        ("last:1", "convolutions", 0.03, 0, False),
        ("full", "layers", 0.003, 2, False),
        ("full", "layers", 0.003, 9, False),
        ("last:1", "convolutions", 0.03, 0, True),
    ],
)
def test_labels_that_mean_nothing_stay_at_chance(strategy, kind, lr, seed, balanced):
    data = unrelated(60, 3, seed, balanced)
    settings = {
        "training.epochs": 17.7778,
        "training.batch_size": 16,
        "training.folds": 3,
        "training.crop": 1.0,
        "training.flip": False,
    }
    run = fit(data, kind=kind, strategy=strategy, lr=lr, settings=settings, seed=seed)
    assert run.estimate.n == 60
    assert run.estimate.low < 1 / 3 < run.estimate.high
    probe = run.summary.linear_probe
    assert probe.low < 1 / 3 < probe.high
    # None where training was given up: it was stuck
    gain = run.summary.fine_tuning_gain
    assert gain.low < 0 < gain.high if gain else run.summary.guards
    if kind == "layers":  # it learnt the labels by heart, and the estimate was not fooled
        answers = run.predict(data[0])
        learnt = np.mean([a.label == label for a, label in zip(answers, data[1], strict=True)])
        assert learnt > 0.9


@pytest.mark.parametrize("seed", [5, 7])
def test_the_head_that_a_fold_begins_with_has_not_seen_its_rows(seed):
    """A penalty so small that a head knows its own rows by heart, and hardly a step after it."""
    settings = {
        "training.epochs": 0.2222,
        "training.batch_size": 8,
        "training.folds": 3,
        "head.penalties": 1e-4,
        "head.candidates": "equal",
    }
    data = unrelated(36, 2, seed, False)
    run = fit(data, kind="layers", strategy="full", lr=1e-6, settings=settings, seed=seed)
    assert run.estimate.n == 36
    assert run.estimate.low < 1 / 2 < run.estimate.high


# ---- guards --------------------------------------------------------------------------------

TOO_HIGH = "training diverged at learning rates 10, 3.33 and 1.11; the rule's is 0.001"
NO_MOVE = "training made no progress at learning rate 1e-09; the rule's is 0.001"


@pytest.mark.parametrize(
    ("lr", "why", "kinds"),
    [
        (10.0, TOO_HIGH, ["diverged"] * 3),
        (1e-9, NO_MOVE, ["stuck"]),
        (
            1e30,
            TOO_HIGH.replace("10, 3.33 and 1.11", "1e+30, 3.33e+29 and 1.11e+29"),
            ["diverged"] * 3,
        ),
    ],
)
def test_where_no_rate_works_the_fitted_head_is_what_is_left(split_pictures, lr, why, kinds):
    """A model that can be used, and plain sentences wherever the run tells of itself."""
    seen = []
    run = fit(
        split_pictures,
        strategy="full",
        lr=lr,
        settings={"training.epochs": 4.4444},
        on_event=seen.append,
    )
    guards = run.summary.guards
    assert [guard.kind for guard in guards] == kinds
    assert guards[-1].action == "training was given up"
    told = [event.values for event in seen if event.kind == "guard"]
    assert [values["guard"] for values in told] == kinds
    assert told[-1]["text"].endswith("; training was given up")
    assert run.summary.shipped.strategy == "head"
    assert run.summary.shipped.why.endswith(f"2 layers frozen: full was given up, {why}")
    assert why in (run.path / "README.md").read_text().replace("\n", " ")
    assert f"full was given up: {why}." in run.verdict.sentence
    assert "not tried" not in run.verdict.sentence
    assert run.summary.fine_tuning_gain is None
    assert run.summary.estimate == run.summary.linear_probe
    assert why in " ".join(fit_text(run).split())
    assert '"NaN"' not in (run.path / "progress.jsonl").read_text()
    for line in lines(run.path, "progress.jsonl"):
        json.dumps(line, allow_nan=False)
    # The very model that a run of the head alone ships, estimate and all.
    head = fit(split_pictures, strategy="head")
    assert bytes_of(run.path / "model").keys() == bytes_of(head.path / "model").keys()
    ours, theirs = (load_file(r.path / "model" / "model.safetensors") for r in (run, head))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert (run.estimate, run.test) == (head.estimate, head.test)
    assert run.summary.frozen == head.summary.frozen
    image = split_pictures / "test" / "red" / "000.png"
    answers = [load(r.path, network=network()).predict([image])[0].scores for r in (run, head)]
    assert answers[0] == answers[1]


def fit_text(run):
    """What a terminal shows at the end."""
    return result_text.result_text(run.summary, run.path, None)


def test_a_rate_that_works_at_a_third_is_shipped_so(split_pictures):
    run = fit(split_pictures, strategy="full", lr=0.3, settings={"training.epochs": 4.4444})
    # Even a third of that rate forgets much.
    guards = [guard for guard in run.summary.guards if guard.kind != "forgetting"]
    assert {guard.kind for guard in guards} == {"diverged"}
    assert len(guards) <= 2  # the last training begins at the rate that works
    assert {g.action for g in guards} == {"training began again at a third of the learning rates"}
    assert run.summary.shipped.strategy == "full"
    assert run.summary.frozen.identical


def test_the_users_own_network_is_left_as_it_was(pictures):
    module = network()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    fit(pictures, base=module, strategy="full", lr=0.01, settings=SETTINGS)
    after = module.state_dict()
    assert isinstance(module, Convolutions)
    assert not module.training
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert all(parameter.requires_grad for parameter in module.parameters())
