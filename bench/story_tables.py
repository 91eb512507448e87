"""Tables, sentences and pictures of the stories (bench/results/stories.jsonl)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from bench.drawing import dot, line, picture, text
from bench.markdown import bare, percent, points, table, took
from bench.stories import Row, stored
from bench.story_sets import STORIES

# A name of each run for tables and pictures, in their order.
ARMS = {
    "warm": "warm start",
    "head": "linear probe",
    "as-is": "not trained further",
    "imagenet": "from ImageNet",
    "x10": "learning rate × 10",
    "d1000": "learning rate ÷ 1,000",
    "stem": "wrong blocks frozen",
    "scratch": "from scratch",
}
WRONG = ("x10", "d1000", "stem")
SOURCE = "(`bench/results/stories.jsonl`)"
LEFT, WIDE, ROW, TOP, RIGHT = 330, 300, 30, 76, 150


def output(story: str) -> dict[str, Row]:
    """The newest row of each run of a story, by its name, first seed."""
    return {row["arm"]: row for row in stored() if row["story"] == story and row["seed"] == 0}


def results(story: str) -> str:
    """A row a run: accuracy and the warm start against it; then what guards did."""
    result = output(story)
    lines = [
        [
            name,
            _accuracy(result[arm]["test"]),
            _gain(result["compare"]["pairs"], arm),
        ]
        for arm, name in ARMS.items()
        if arm in result
    ]
    heads = ["run", "test accuracy, %", "warm start better by, points"]
    guarded = [f"*{ARMS[arm]}*: {_guarded(result[arm])}" for arm in ARMS if _guards(result, arm)]
    test = result["warm"]["test"]["n"]
    about = f"{result['warm']['train']} training images, {test} test images, one seed {SOURCE}."
    if guarded:
        about += f" Guards: {'; '.join(guarded)}."
    return f"{table(heads, lines)}\n\n{about}{_missing(story, result)}"


def _missing(story: str, result: dict[str, Row]) -> str:
    """Runs that this machine had no time for."""
    names = [f"*{name}*" for arm, name in ARMS.items() if arm in STORIES[story].commands()]
    have = [f"*{ARMS[arm]}*" for arm in ARMS if arm in result]
    lack = [name for name in names if name not in have]
    return f" Not yet measured: {_listed(lack)}." if lack else ""


def home(story: str) -> str:
    """How good the source run is where it comes from."""
    test = output(story)["source"]["test"]
    return f"Accuracy of the source run on its own {test['n']} test images, %: {_accuracy(test)}."


def _accuracy(test: dict[str, Any]) -> str:
    return f"{bare(test['accuracy'], 0)} ({bare(test['low'], 0)}–{bare(test['high'], 0)})"


def _ahead(pairs: list[dict[str, Any]], arm: str) -> tuple[float, float, float, str | None] | None:
    """Accuracy of the warm start minus that of another run: value, low, high, who won."""
    for pair in pairs:
        if (pair["a"], pair["b"]) == ("warm", arm):
            return pair["difference"], pair["low"], pair["high"], pair["winner"]
        if (pair["a"], pair["b"]) == (arm, "warm"):
            return -pair["difference"], -pair["high"], -pair["low"], pair["winner"]
    return None


def _gain(pairs: list[dict[str, Any]], arm: str) -> str:
    result = _ahead(pairs, arm)
    if result is None:
        return ""
    *numbers, winner = result
    value, low, high = (points(one).removesuffix(" points") for one in numbers)
    shown = f"{value} ({low} to {high})"
    return f"**{shown}**" if winner else shown


def _guards(result: dict[str, Row], arm: str) -> bool:
    return arm in result and bool(result[arm].get("guards"))


def _guarded(row: Row) -> str:
    """What guards saw; what the training had come to where it was given up."""
    kinds = " and ".join(dict.fromkeys(guard["kind"] for guard in row.get("guards", ())))
    return f"{kinds}, the linear probe ships" if row["shipped"]["strategy"] == "head" else kinds


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def verdict(story: str) -> str:
    """What `check` said of the source run and the new pictures, before anything was trained."""
    row = output(story)["check"]
    result = {one["name"]: one for one in row["evidence"]}
    right, gain = result["permutation_test"], result["transfer_gain"]
    low, high = (f"{100 * gain[end]:.0f}".replace("-", "−") for end in ("low", "high"))
    return (
        f"`check` beforehand ({took(row['seconds'])}): {percent(right['value'], 0)} right, "
        f"{100 * right['low']:.0f}–{percent(right['high'], 0)} with shuffled labels; transfer "
        f"gain {100 * gain['value']:.0f} points (95 % CI {low} to {high}); `{row['verdict']}`."
    )


def commands(story: str) -> str:
    """The commands of the source run, the warm start and the linear probe, and their comparison."""
    typed = STORIES[story].commands()
    lines = [typed[name] for name in ("source", "check", "as-is", "warm", "head") if name in typed]
    return "\n".join(["```text", *lines, "warmstart compare runs/warm runs/head", "```"])


# ---- pictures ------------------------------------------------------------------------------


def svg(story: str) -> str:
    """A row a run: test accuracy with its interval."""
    result = output(story)
    shown = [(arm, name) for arm, name in ARMS.items() if arm in result]
    bottom = TOP + ROW * len(shown)
    about = f"Test accuracy of {len(shown)} runs with 95 % intervals: {result['warm']['command']}"
    drawn = [
        text(
            16,
            26,
            f"Accuracy on {result['warm']['test']['n']} test images",
            "ink",
            'font-weight="bold"',
        ),
        text(16, 48, "with 95 % confidence interval", "faint"),
        text(LEFT + WIDE + 30, 48, "95 % after", "faint"),
    ]
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = _x(tick)
        drawn += [line(x, TOP - 8, x, bottom), text(x - 12, bottom + 18, percent(tick, 0), "faint")]
    courses = {run["name"]: run["near_end_updates"] for run in result["compare"]["runs"]}
    for number, (arm, name) in enumerate(shown):
        y, test = TOP + ROW * number + ROW / 2, result[arm]["test"]
        kind = "stays" if arm == "warm" else "moved" if arm in WRONG else "plain"
        drawn += [
            text(16, y + 4, name),
            line(_x(test["low"]), y, _x(test["high"]), y, "edge", 2),
            dot(_x(test["accuracy"]), y, kind),
        ]
        if courses.get(arm) is not None:
            drawn.append(text(LEFT + WIDE + 30, y + 4, f"{courses[arm]} updates", "faint"))
    return picture(LEFT + WIDE + RIGHT, bottom + 34, about, drawn)


def _x(accuracy: float) -> float:
    return round(LEFT + accuracy * WIDE, 1)


TOLD = [name for name in STORIES if "compare" in output(name)]
COMMANDS: dict[str, Callable[[], str]] = {
    f"story-{name}-commands": partial(commands, name) for name in STORIES
}
MADE = COMMANDS | {
    f"story-{name}-{what}": partial(make, name)
    for name in TOLD
    for what, make in (
        ("results", results),
        ("verdict", verdict),
        ("home", home),
    )
}
DRAWN: dict[str, Callable[[], str]] = {f"story-{name}": partial(svg, name) for name in TOLD}
