"""Progress: its pace, a stage and its line, and the lines in a log, a notebook, a terminal."""

import io
import itertools
import random
import re
import sys
import warnings
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.events import Event
from warmstart.terminal.progress import (
    REFRESH_S,
    SOONEST_S,
    Cell,
    Lines,
    ProgressRate,
    Stage,
    Watcher,
    cell_display,
    python_watcher,
    title_of,
    watcher,
)


def event(stage, kind, t, step=0, of=None, **values):
    return Event(stage=stage, kind=kind, t=t, step=step, of=of, values=values)


def note(stage, t, title, text):
    return event(stage, "note", t, title=title, text=text)


JOB = [
    event("read", "begin", 0.0),
    event("read", "step", 0.2, 500, 1797),
    event("read", "end", 0.5, 1797, 1797),
    note("read", 0.6, "Data", "1,797 images, 10 classes"),
    event("features", "begin", 1.0, of=1797),
    event("features", "step", 3.0, 500, 1797, per_second=73.2),
    event("features", "step", 5.1, 1797, 1797, per_second=73.2),
    event("checks", "begin", 5.1),
    note("checks", 6.0, "Check", "The network's best guess is right 99 % of the time. " * 2),
    event("head", "begin", 7.0, of=3),
    event("head", "step", 50.0, 3, 3),
    event("head", "end", 51.0),
    event("evaluate", "begin", 51.0),
    event("evaluate", "end", 53.0),
    note("deliver", 54.0, "Proof", "frozen: unchanged, bit for bit"),
]
LINES = """\
Data      1,797 images, 10 classes
Features  1,797/1,797  4.1 s  73/s
Check     The network's best guess is right 99 % of the time. The network's best
          guess is right 99 % of the time.
Head      3/3  44 s
Evaluate  3.0 s
Proof     frozen: unchanged, bit for bit
"""


class Terminal(io.StringIO):
    def isatty(self):
        return True


def play(stream, events=JOB):
    with watcher(stream) as watch:
        for each in events:
            watch.show(each)
    return stream.getvalue()


def visible(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def test_without_a_terminal_a_stage_is_a_line():
    assert play(io.StringIO()) == LINES


def test_a_dumb_terminal_gets_lines_and_no_stream_nothing(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(watcher(Terminal()), Lines)
    assert type(watcher(None)) is Watcher


def test_on_a_terminal_bars_move_and_the_same_lines_stay(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    text = visible(play(Terminal()))
    assert "━" in text
    for line in LINES.splitlines():
        assert line.split("  ")[-1] in text


def test_no_color_is_honoured(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", play(Terminal()))


def broken(events):
    stream = io.StringIO()
    lines = watcher(stream)
    lines.__enter__()
    for each in events:
        lines.show(each)
    lines.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    return stream.getvalue()


def test_a_job_that_breaks_shows_how_far_it_came():
    events = [event("features", "step", 1.0, 64, 300, per_second=8.25)]
    assert broken(events) == "Features  64/300  0.0 s  8.2/s\n"
    assert broken([event("read", "begin", 1.0)]) == ""


TRAINING = [
    event("fine_tune", "begin", 0.0, trainings=4),
    event("fine_tune", "step", 10.0, 1, 6000, job=1, loss=2.3, per_second=60.0),
    event("fine_tune", "step", 20.0, 150, 6000, job=1, loss=1.0, per_second=60.0),
    event("fine_tune", "step", 69.0, 900, 6000, job=1, loss=0.5, per_second=60.0),
    event("fine_tune", "step", 70.0, 915, 6000, job=1, loss=0.5, val=0.80, head=0.75),
    event("fine_tune", "step", 90.0, 1200, 6000, job=1, loss=0.5),
    event("fine_tune", "step", 200.0, 2850, 6000, job=2, loss=0.5),
    note("fine_tune", 205.0, "Guard", "the loss rises"),
    event("fine_tune", "step", 410.0, 6000, 6000, job=4, loss=0.3, per_second=64.0),
    event("fine_tune", "end", 411.0),
    event("evaluate", "begin", 412.0),
]


def test_a_long_training_writes_its_progress_once_a_minute():
    assert play(io.StringIO(), TRAINING).splitlines() == [
        "Fine-tune 900/6,000  about 6 min left  loss 1.20",
        "Fine-tune 2,850/6,000  about 4 min left  loss 0.50",
        "Guard     the loss rises",
        "Fine-tune 6,000/6,000  6 min 52 s  61 images/s  val 80 % (linear probe 75 %)",
        "Evaluate  0.0 s",
    ]


AUGMENTATION = [
    event("fine_tune", "begin", 0.0, trainings=2),
    event("fine_tune", "begin", 1.0, of=64, title="Augment"),
    event("fine_tune", "step", 2.0, 32, 64, per_second=32.0, title="Augment"),
    event("fine_tune", "step", 3.0, 64, 64, per_second=32.0),
    event("fine_tune", "step", 4.0, 1, 20, job=1, per_second=99.0),
    event("fine_tune", "step", 5.0, 20, 20, job=1, per_second=99.0),
]


@pytest.mark.parametrize("unit", ["images", "texts"])
def test_cached_augmentations_have_their_own_line(unit):
    begin = event("fine_tune", "begin", 0.0, trainings=2, unit=unit)
    assert play(io.StringIO(), [begin, *AUGMENTATION[1:]]) == (
        f"Augment   64/64  3.0 s  32/s\nFine-tune 20/20  1.0 s  99 {unit}/s\n"
    )


def test_features_from_the_cache_are_reported_before_augmentations():
    begin = event("features", "begin", 0.0, of=0, missing=0, total=300)
    augment = event("features", "begin", 0.1, of=9, title="Augment")
    assert play(io.StringIO(), [begin, augment, event("features", "step", 9.0, 9, 9)]) == (
        "Features  300 from the cache  0.1 s\nAugment   9/9  8.9 s\n"
    )


def test_nothing_steers_the_terminal_that_reads_a_log():
    text = play(io.StringIO(), [note("read", 0.0, "\x1b[2J", "a\x1b[1Jb\x07.jpg"), *TRAINING])
    assert text.replace("\n", "").isprintable()


# ---- A notebook: one output that is replaced.


class Output:
    """Stands for `IPython.display.display`; updates replace the content."""

    def __init__(self):
        self.content, self.updates = None, 0

    def __call__(self, bundle, raw, display_id):
        assert raw
        assert display_id
        assert self.content is None, "a second output"
        self.content = bundle
        return SimpleNamespace(update=self.update)

    def update(self, bundle, raw):
        assert raw
        self.content, self.updates = bundle, self.updates + 1


def test_the_running_stage_stands_below_until_it_ends():
    output = Output()
    with Cell(output) as cell:
        for each in JOB[:6]:
            cell.show(each)
        assert output.content["text/plain"].splitlines()[-1].startswith("Features  500/1,797")
        for each in JOB[6:]:
            cell.show(each)
    assert output.content["text/plain"] + "\n" == LINES


def test_it_is_not_written_more_often_than_can_be_read():
    output = Output()
    with Cell(output) as cell:
        cell.show(event("features", "begin", 0.0, of=1000))
        for step in range(1, 1000):
            cell.show(event("features", "step", step / 1000, step, 1000))
    assert output.updates <= 1 / REFRESH_S + 2


def test_html_is_escaped_and_nothing_shown_where_nothing_happens():
    output = Output()
    with Cell(output) as cell:
        assert output.content is None
        cell.show(event("read", "note", 0.0, title="Data", text="<b>1 image</b>"))
    assert "<b>" not in output.content["text/html"]


def test_warnings_about_other_progress_bars_are_hidden():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Cell(Output()):
            warnings.warn("IProgress not found. Please update", UserWarning, stacklevel=1)
            warnings.warn("something else", UserWarning, stacklevel=1)
        warnings.warn("IProgress not found", UserWarning, stacklevel=1)
    assert [str(one.message) for one in caught] == ["something else", "IProgress not found"]


def ipython(monkeypatch, shell):
    """Pretend that IPython runs with this shell."""
    module, display = ModuleType("IPython"), ModuleType("IPython.display")
    module.get_ipython, display.display = lambda: shell, Output()
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return display.display


def test_a_notebook_is_distinguished_from_a_terminal(monkeypatch):
    for shell in (SimpleNamespace(), None):
        ipython(monkeypatch, shell)
        assert cell_display() is None
    display = ipython(monkeypatch, SimpleNamespace(kernel=object()))
    assert cell_display() is display


def test_progress_is_shown_in_notebooks_and_elsewhere_on_request(monkeypatch):
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    kinds = [type(python_watcher(progress)) for progress in (None, False, True)]
    assert kinds == [Watcher, Watcher, Lines]
    ipython(monkeypatch, SimpleNamespace(kernel=object()))
    kinds = [type(python_watcher(progress)) for progress in (None, False, True)]
    assert kinds == [Cell, Watcher, Cell]


# ---- The time left: exact at a steady speed, smooth at an uneven one.

SPEEDS = st.floats(0.01, 1e4)


def paced(speeds, of, gap=1.0):
    """The pace after running at each of these speeds for `gap` seconds."""
    pace, at, step = ProgressRate(at=0.0), 0.0, 0.0
    for speed in speeds:
        at, step = at + gap, step + speed * gap
        pace.see(at, step, of)
        yield at, step, pace


@given(speed=SPEEDS, gap=st.floats(0.05, 100), n=st.integers(1, 40))
def test_a_steady_speed_gives_the_exact_time(speed, gap, n):
    of = 1000 * speed * gap
    for at, step, pace in paced([speed] * n, of, gap):
        if at < SOONEST_S:
            assert pace.left(at) is None
        elif pace.counted >= SOONEST_S:
            assert pace.left(at) == pytest.approx((of - step) / speed)
            assert pace.left(at + 2) == pytest.approx(max((of - step) / speed - 2, 0), abs=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_an_uneven_speed_makes_no_jumps(seed):
    rng = random.Random(seed)
    speeds = [rng.choice((6.0, 10.0, 14.0)) for _ in range(100)]
    history = [(at, pace.left(at)) for at, _, pace in paced(speeds, of=2000)]
    for (before, left), (at, later) in itertools.pairwise(history[10:]):
        assert abs(later - (left - (at - before))) < 0.05 * left
    at, left = history[-1]
    assert 0.5 < left / ((2000 - sum(speeds)) / 10) < 2


def test_what_lies_between_two_trainings_says_nothing_of_the_speed():
    *_, (at, step, pace) = paced([10.0] * 20, of=1000)
    steady = pace.left(at)
    pace.skip(at + 30, step + 300)  # the training ended early, and a head was fitted
    for second in range(1, 30):
        pace.see(at + 30 + second, step + 300 + 10 * second, 1000)
    assert steady == pytest.approx(80)
    assert pace.left(at + 59) == pytest.approx((1000 - step - 300 - 290) / 10, abs=1)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(0, 10**9)), max_size=30))
def test_clocks_that_are_set_back_and_jobs_that_restart_do_no_harm(steps):
    pace = ProgressRate(at=0.0)
    for at, step in steps:
        pace.see(at, step, 10**9)
        left = pace.left(at)
        assert left is None or left >= 0


def test_where_no_end_is_known_nothing_is_guessed():
    *_, (at, _, pace) = paced([3.0] * 10, of=None)
    assert pace.left(at) is None
    *_, (at, _, pace) = paced([0.0] * 10, of=100)
    assert pace.left(at) is None


# ---- A stage from its events: count, scores and line.

NUMBERS = st.one_of(st.floats(), st.integers(-(10**30), 10**30))
VALUES = st.dictionaries(
    st.sampled_from(["loss", "val", "head", "per_second", "job", "missing", "total"]),
    st.one_of(NUMBERS, st.just("many")),
)


def any_event():
    return st.builds(
        Event,
        stage=st.sampled_from(["features", "fine_tune", "head"]),
        kind=st.sampled_from(["begin", "step", "end"]),
        step=st.integers(0, 10**15),
        of=st.one_of(st.none(), st.integers(1, 10**15)),
        t=st.floats(0, 1e10),
        values=VALUES,
    )


def tune(t, step, of=6000, **values):
    return Event(stage="fine_tune", kind="step", step=step, of=of, t=t, values=values)


def after(*events, name="fine_tune", title="Fine-tune"):
    stage = Stage(name, title, began=events[0].t, latest=events[0].t)
    for each in events:
        stage.see(each)
    return stage


@given(
    events=st.lists(any_event(), min_size=1, max_size=8),
    width=st.integers(1, 120),
    bar_end=st.sampled_from([0, 51]),
)
def test_no_line_is_wider_than_allowed(events, width, bar_end):
    stage = after(*events)
    finished, running = stage.line(bar_end, width) or "", stage.running_line(events[-1].t)
    assert len(finished) <= width
    assert len(running) <= 80
    assert (finished + running).isprintable()


DONE = "Fine-tune 1,500/1,500"


@pytest.mark.parametrize(
    ("bar_end", "width", "text"),
    [
        (51, 80, DONE + " " + "━" * 9 + "  41 s  64 images/s  val 86 % (linear probe 83 %)"),
        (0, 80, DONE + "  41 s  64 images/s  val 86 % (linear probe 83 %)"),
        (0, 61, DONE + "  41 s  val 86 % (linear probe 83 %)"),
        (0, 52, DONE + "  val 86 % (linear probe 83 %)"),
        (0, 31, DONE),
        (0, 12, "Fine-tune"),
    ],
)
def test_a_training_reports_its_speed_and_score_as_far_as_they_fit(bar_end, width, text):
    first = tune(0.0, 1, 1500, job=1, loss=0.9)
    last = tune(41.0, 1500, 1500, job=1, loss=0.3, per_second=64.2, val=0.861, head=0.832)
    assert after(first, last).line(bar_end, width) == text


def test_the_loss_is_that_of_the_current_training():
    first = [tune(t, t + 1, job=1, loss=1.0) for t in range(10)]
    assert after(*first).loss == "loss 1.00"
    assert after(*first, tune(10, 11, job=1, loss=0.0)).loss == "loss 0.85"  # smoothed
    assert after(*first, tune(10, 3001, job=2, loss=0.25)).loss == "loss 0.25"
    assert after(*first, tune(10, 1, job=1, loss=0.25)).loss == "loss 0.25"  # it began anew
    assert after(*first, tune(10, 11, job=1, loss=float("nan"))).loss == "loss 1.00"


def test_validation_scores_are_averaged_over_folds():
    one = tune(1, 10, job=1, val=0.80, head=0.70)
    two = tune(2, 20, job=1, val=0.90, head=0.70)
    three = tune(3, 3010, job=2, val=0.60, head=0.70)
    assert after(one).val == "val 80 % (linear probe 70 %)"
    assert after(one, two).val == "val 90 % (linear probe 70 %)"
    assert after(one, two, three).val == "val 75 % (linear probe 70 %)"
    assert after(three).val == "val 60 % (linear probe 70 %)"
    assert after(tune(1, 10, job=1, val=0.8)).val == "val 80 %"


def test_a_running_training_shows_its_fold_epoch_and_score():
    begin = event("fine_tune", "begin", 0.0, trainings=3, folds=2)
    first = tune(1, 10, 6000, job=1, epoch=0.2, val=0.80, head=0.70)
    second = tune(2, 3010, 6000, job=2, epoch=0.1)
    third = tune(3, 3500, 6000, job=2, epoch=2.34, val=0.60, head=0.55)
    last = tune(4, 6000, 6000, job=3, epoch=4.0)
    assert after(begin, first).position == "fold 1/2 epoch 0.2"
    assert after(begin, first, second).running_line(2.0).startswith("Fine-tune fold 2/2 epoch 0.1")
    assert "val" not in after(begin, first, second).running_line(2.0)  # that was another fold
    now = after(begin, first, second, third)
    assert now.running_line(3.0).endswith("val 60 % (linear probe 55 %)")
    done = after(begin, first, second, third, last)
    assert done.fold == "all images"
    assert done.line() == "Fine-tune 6,000/6,000  4.0 s  val 70 % (linear probe 62 %)"


def test_the_speed_of_a_training_is_that_of_all_its_updates():
    events = [tune(float(t), t, job=1, per_second=speed) for t, speed in enumerate((20.0, 60.0))]
    assert after(*events).speed == "30 images/s"  # as many images at each: 2 / (1/20 + 1/60)
    assert after(*events, tune(3.0, 3, job=1, per_second=0.0)).speed == "30 images/s"
    extracted = event("features", "step", 1.0, 64, 300, per_second=8.25)
    assert after(extracted, name="features", title="Features").speed == "8.2/s"


@pytest.mark.parametrize(
    ("kind", "values", "title"),
    [
        ("begin", {"title": "Augment"}, "Augment"),
        ("begin", {}, "Fine-tune"),
        ("step", {}, "Augment"),
        ("step", {"job": 1}, "Fine-tune"),
        ("end", {}, "Augment"),
        ("note", {"title": "Guard"}, "Augment"),
    ],
)
def test_work_inside_a_stage_may_have_its_own_title(kind, values, title):
    current = Stage("fine_tune", "Augment", began=0.0, latest=0.0)
    assert title_of(event("fine_tune", kind, 0.0, **values), current) == title
    proof = event("deliver", "note", 0.0, title="Proof")
    assert title_of(proof, current) == "Deliver"
