"""A plan on one screen of 80 x 24: what is frozen or fine-tuned, why, how long."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from hue_images import fill
from plans import PREPROCESSING, actions, apply_settings, network_facts, plan_for, rates
from warmstart.cli.fit import plan_text
from warmstart.cli.main import main
from warmstart.records.plan import DryRun, Forecast

BLOCKS = (1, 2, 2, 3, 3, 4, 1)
NAMES = (
    "conv_stem",
    *(f"blocks.{stage}.{i}" for stage, n in enumerate(BLOCKS) for i in range(n)),
    "conv_head",
)
WORDS = ("head", "last:4", "full+gradual", "head+add", "scratch", "full+lora")
each = pytest.mark.parametrize("strategy", WORDS)
SECONDS = {"features": 9.0, "checks": 8.0, "head": 2.2, "fine_tune": 95.0, "total": 120.3}
FORECAST = Forecast(seconds=SECONDS, memory_mb=812.3, disk_mb=25.1)


def dry_run(strategy, names=NAMES, settings=(), lr=None, **changes):
    facts = network_facts(names, preprocessing=PREPROCESSING)
    plan = apply_settings(plan_for(strategy, network=facts, lr=lr), settings)
    forecast = FORECAST
    if not plan.is_trained:
        quick = {**SECONDS, "fine_tune": 0.0, "total": 25.3}
        forecast = replace(FORECAST, seconds=quick)
    result = DryRun(
        data="photos",
        title="EfficientNet-Lite0",
        n=300,
        n_test=80,
        classes=tuple("abcd"),
        plan=plan,
        forecast=forecast,
        parameters={name: 1000 * place for place, name in enumerate(names, 1)},
    )
    return replace(result, **changes)


def table(text):
    """The rows under `Blocks`: (numbers, action, the rest)."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("Blocks"))
    rows = []
    for line in lines[first + 1 :]:
        if not line.startswith(" " * 10):
            break
        rows.append(tuple(re.split(r" {2,}", line.strip(), maxsplit=2)))
    return rows


def paragraph(text, title):
    """The text beside a title."""
    block = re.search(rf"^{title} .*\n(?: {{10}}.*\n)*", text + "\n", re.M)[0]
    return " ".join(line[10:] for line in block.splitlines())


# ---- It fits.

LONG = tuple(f"encoder.layers.encoder_layer_{i}.with_a_very_long_name" for i in range(18))


@each
@pytest.mark.parametrize("names", [NAMES, LONG, ("whole",)], ids=["lite0", "long", "one"])
@pytest.mark.parametrize("plan_file", [None, "a folder/my plan.toml"])
def test_a_plan_fits_on_a_screen(strategy, names, plan_file):
    if names == ("whole",):
        strategy = {"last:4": "last:1", "full+gradual": "full"}.get(strategy, strategy)
    result = dry_run(strategy, names, plan_file=plan_file, follows_verdict=True)
    text = plan_text(result, "my photos/of all that I have/ever taken")
    lines = text.splitlines()
    assert len(lines) <= 24
    commands = ("warmstart fit", "--plan")  # a path that was typed is never broken
    assert all(len(line) <= 80 for line in lines if not any(c in line for c in commands))
    assert all(line == line.rstrip() for line in lines)


# ---- It says what matters.


@each
def test_the_table_lists_frozen_and_fine_tuned_layers_with_learning_rates(strategy):
    result = dry_run(strategy)
    rows = table(plan_text(result, "photos/"))
    words = {"fresh": "new", "tuned": "fine-tuned"}
    body = [p for p in result.plan.blocks if p.name != "output"]
    listed = []
    for numbers, action, rest in rows[:-1]:
        first, _, last = numbers.partition("–")
        group = body[int(first) - 1 : int(last or first)]
        listed += [block.name for block in group]
        assert {words.get(p.action.value, p.action.value) for p in group} == {action}
        own = [rates(result.plan)[p.name] for p in group if p.lr is not None]
        rate = " to ".join(f"{one:g}" for one in sorted({min(own), max(own)})) if own else "–"
        assert rest.startswith(f"{rate}  ")
        assert group[0].name in rest
        assert group[-1].name in rest
    assert listed == [block.name for block in body]
    name, action, rest = rows[-1]
    assert (name, action) == ("head", "new")
    output = rates(result.plan).get("output")
    assert rest.split()[0] == ("exact" if output is None else f"{output:g}")
    assert rest.endswith("for 4 classes")


@each
def test_reason_and_cost_are_stated(strategy):
    result = dry_run(strategy)
    text = plan_text(result, "photos/")
    why = paragraph(text, "Because")
    assert why.startswith(f"You chose {result.plan.strategy.value}")
    assert ("the rule would choose head" in why) == (strategy != "head")
    cost = paragraph(text, "Cost")
    total = "2 min" if strategy != "head" else "25 s"
    assert cost.startswith(f"About {total} (")
    assert ("fine-tuning 95 s" in cost) == (strategy != "head")
    assert cost.endswith("812 MB of memory, 25 MB on disk.")
    assert paragraph(text, "Data") == "300 training images, 4 classes, 80 test images"
    assert "EfficientNet-Lite0" in paragraph(text, "Base")


def test_a_plan_of_the_rule_gives_the_rules_reason():
    text = plan_text(dry_run("auto", follows_verdict=True), "photos/")
    assert paragraph(text, "Because") == (
        "A linear probe on the frozen network; no measurement calls for more (head)."
    )
    assert text.splitlines()[-1].strip() == (
        "auto: the checks of the run may decide to fine-tune more."
    )
    assert "LR" not in text
    assert "Training" not in text


def test_learning_rate_training_and_surgery_are_described():
    result = dry_run("last:2", lr=0.002)
    text = plan_text(result, "p")
    assert paragraph(text, "LR") == "0.002: your choice (the rule would choose 0.001)."
    usual = dry_run("last:2", surgery="the first layer takes 4 bands")
    text = plan_text(usual, "p")
    assert usual.plan.training.lr.because.split(";")[0] in paragraph(text, "LR")
    assert paragraph(text, "Surgery") == "The first layer takes 4 bands."
    training = paragraph(plan_text(dry_run("full"), "p"), "Training")
    assert training.startswith("10 epochs, batches of 16; 5-fold cross-validation for the estimate")


def test_blocks_that_were_set_one_by_one_have_their_own_rows():
    result = dry_run("full", settings=("block.conv_stem.action=frozen", "block.5.lr=0.5"))
    rows = table(plan_text(result, "p"))
    assert [row[:2] for row in rows] == [("1", "frozen"), ("2–18", "fine-tuned"), ("head", "new")]
    assert actions(result.plan)["conv_stem"] == "frozen"
    assert rows[1][2].split("  ")[0].endswith("to 0.5")


# ---- What to type next.


def test_the_next_command_is_the_fit_itself_or_follows_the_file():
    text = plan_text(dry_run("last:4", plan_file="my plan.toml"), "my photos")
    assert "Next      warmstart fit 'my photos' --plan 'my plan.toml'" in text
    text = plan_text(dry_run("head", ("a\x1b[2J", "b")), "photos/")
    assert "Next      warmstart fit photos/ " in text
    assert "warmstart fit photos/ --strategy last:4 --dry-run" in text
    assert "\x1b" not in text  # a name does not steer the terminal


# ---- The dry run itself.

FAST = "fit photos --budget fast -q"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with photos to work in."""
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "photos", {"blue": 6, "green": 6, "red": 6})
    return tmp_path


@pytest.mark.parametrize(
    "words", ["--strategy head", "--strategy last:1 --set training.epochs=3.5556"]
)
def test_a_dry_run_shows_a_plan_and_writes_nothing(here, capsys, words):
    assert main([*FAST.split(), *words.split(), "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    for word in ("Blocks", "frozen", "Because", "Cost", "Next"):
        assert word in out
    assert {path.name for path in here.iterdir()} <= {"photos", "cache"}


def test_a_dry_run_as_json_holds_the_plan_and_the_forecast(here, capsys):
    words = "fit photos --budget fast --strategy last:1 --lr 0.001 --dry-run --json"
    assert main(words.split()) == 0
    out, err = capsys.readouterr()
    dry_run = json.loads(out)
    assert "Base " in err
    assert dry_run.keys() == set(DryRun.__dataclass_fields__) - {"kind"}  # of other inputs alone
    assert dry_run["plan"]["training"]["lr"]["value"] == 0.001
    assert dry_run["forecast"]["seconds"]["total"] > 0
    assert dry_run["plan_file"] is None


def test_a_plan_that_was_written_is_followed_and_single_values_still_win(here, capsys):
    few = "--strategy last:1 --seed 3 --set training.epochs=0.8889 --set training.folds=1"
    assert main([*FAST.split(), *few.split(), "--dry-run", "--out", "plan.toml"]) == 0
    assert "warmstart fit photos --plan plan.toml" in capsys.readouterr().out
    followed = ["fit", "photos", "-q", "--plan", "plan.toml", "--out"]
    assert main([*followed, "one"]) in (0, 3)
    assert main([*followed, "two", "--set", "training.epochs=1.3333"]) in (0, 3)
    names = ("plan.toml", "one/plan.toml", "two/plan.toml")
    plan, one, two = (Path(name).read_text() for name in names)
    assert one == plan
    epochs = two.split("[training.epochs]")[1].split("\n[")[0]
    assert "value = 1.3333\n" in epochs
    assert 'source = "user"' in epochs
    assert "value = 3\n" in two.split("[training.seed]")[1].split("\n[")[0]
