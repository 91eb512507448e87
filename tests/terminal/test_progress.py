"""Events as lines, and as bars on a terminal."""

import io
import re

from warmstart.events import Event
from warmstart.terminal.progress import Lines, Watcher, watcher


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


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(watcher(Terminal()), Lines)


def test_without_stderr_nothing_is_shown():
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


def test_features_from_the_cache_are_reported():
    begin = event("features", "begin", 0.0, of=0, missing=0, total=300)
    assert play(io.StringIO(), [begin]) == "Features  300 from the cache  0.0 s\n"


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


def test_a_job_that_breaks_at_once_shows_nothing():
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


def test_cached_augmentations_have_their_own_line():
    assert play(io.StringIO(), AUGMENTATION) == (
        "Augment   64/64  3.0 s  32/s\nFine-tune 20/20  1.0 s  99 images/s\n"
    )


def test_a_training_names_its_unit_also_after_augmentations():
    begin = event("fine_tune", "begin", 0.0, trainings=2, unit="texts")
    assert play(io.StringIO(), [begin, *AUGMENTATION[1:]]) == (
        "Augment   64/64  3.0 s  32/s\nFine-tune 20/20  1.0 s  99 texts/s\n"
    )


def test_features_from_the_cache_are_reported_before_augmentations():
    begin = event("features", "begin", 0.0, of=0, missing=0, total=300)
    augmentations = [
        event("features", "begin", 0.1, of=9, title="Augment"),
        event("features", "step", 9.0, 9, 9),
    ]
    assert play(io.StringIO(), [begin, *augmentations]) == (
        "Features  300 from the cache  0.1 s\nAugment   9/9  8.9 s\n"
    )


def test_nothing_steers_the_terminal_that_reads_a_log():
    text = play(io.StringIO(), [note("read", 0.0, "\x1b[2J", "a\x1b[1Jb\x07.jpg"), *TRAINING])
    assert text.replace("\n", "").isprintable()
