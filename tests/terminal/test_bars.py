"""The bar on a terminal: what it shows, and that it stays within the terminal."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from warmstart.events import Event
from warmstart.terminal.bars import Bars, running_bar, running_parts
from warmstart.terminal.progress import Stage
from warmstart.terminal.text import MOST_WIDTH

SCORES = "val 86 % (linear probe 83 %)"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def stage_of_training(t=60.0, step=1500, of=6000, val=0.86, **more):
    """The stage of a training that made `step` updates in `t` seconds."""
    stage = Stage("fine_tune", "Fine-tune", began=0.0, latest=0.0)
    for at, done in ((0.0, 0), (t / 2, step // 2), (t, step)):
        values = {"job": 1, "loss": 0.31, "val": val, "head": 0.83, **more}
        stage.see(Event(stage="fine_tune", kind="step", step=done, of=of, t=at, values=values))
    return stage


def rendered(stage, width, now=60.0, **terminal):
    """The line on a terminal of this width, without colours."""
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=True, **terminal)
    console.print(running_bar(stage, now, width), end="")
    return ESCAPES.sub("", stream.getvalue()).translate({ord("╸"): "━", ord("╺"): "━"})


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (80, "Fine-tune 1,500/6,000 " + "━" * 10 + f"  about 3 min left  {SCORES}"),
        (75, "Fine-tune 1,500/6,000 ━━━━━  about 3 min left  " + SCORES),
        (49, "Fine-tune 1,500/6,000 ━━━━━━━━━  about 3 min left"),
        (39, "Fine-tune 1,500/6,000 about 3 min left"),
        (30, "Fine-tune 1,500/6,000"),
        (9, "Fine-tune"),
        (3, "Fin"),
    ],
)
def test_a_narrow_terminal_shows_the_important(width, text):
    assert rendered(stage_of_training(), width).rstrip() == text


def test_near_the_end_the_loss_is_shown():
    assert rendered(stage_of_training(), 80, now=200.0).rstrip() == (
        "Fine-tune 1,500/6,000 " + "━" * 6 + f"  40 s left  loss 0.31  {SCORES}"
    )


def test_without_an_end_the_elapsed_time_is_shown():
    stage = Stage("checks", "Checks", began=0.0, latest=0.0)
    assert rendered(stage, 80, now=12.0).split() == ["Checks", "━" * 34, "12", "s"]


@given(
    t=st.floats(0, 1e7),
    step=st.integers(0, 10**12),
    of=st.integers(1, 10**12),
    val=st.floats(0, 1),
    loss=st.floats(),
    speed=st.floats(0, 1e9),
    width=st.integers(1, 200),
    now=st.floats(0, 1e8),
)
def test_the_bar_stays_within_the_terminal(t, step, of, val, loss, speed, width, now):
    stage = stage_of_training(t, step, of, val, loss=loss, per_second=speed)
    left, n_bar, right = running_parts(stage, now, min(width, MOST_WIDTH))
    assert len(left) + n_bar + len(right) <= min(width, MOST_WIDTH)
    for line in rendered(stage, width, now).splitlines():
        assert cell_len(line) <= min(width, MOST_WIDTH)


def test_without_colour_the_bar_shows_how_far_it_is():
    line = rendered(stage_of_training(step=3000), 80, no_color=True)
    assert len(line.split("  60 s left")[0].split()[-1]) == 3  # of 6 columns


def test_between_events_the_time_runs_on():
    clock = iter(range(180, 1000, 10))
    stream = io.StringIO()
    watch = Bars(stream, clock=lambda: next(clock))
    watch.stages.stage = stage_of_training()
    for _ in range(2):
        watch.console.print(watch.live.get_renderable())
    first, second = (int(left) for left in re.findall(r"(\d+) s left", stream.getvalue()))
    assert first - second == 10
