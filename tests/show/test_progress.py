"""Events as lines, and as bars on a terminal."""

import io
import re

from warmstart.events import Event
from warmstart.show import Lines, Silent, watcher


def event(stage, kind, t, step=0, of=None, **values):
    return Event(stage=stage, kind=kind, t=t, step=step, of=of, values=values)


def note(stage, t, title, text):
    return event(stage, "note", t, title=title, text=text)


JOB = [
    event("read", "begin", 0.0),
    event("read", "step", 0.2, 500, 1797),
    event("read", "end", 0.5, 1797, 1797),
    note("read", 0.6, "Data", "1,797 images, 10 classes"),
    event("look", "begin", 1.0, of=1797),
    event("look", "step", 3.0, 500, 1797, per_second=73.2),
    event("look", "step", 5.1, 1797, 1797, per_second=73.2),
    event("check", "begin", 5.1),
    note("check", 6.0, "Check", "The network's best guess is right 99 % of the time. " * 2),
    event("head", "begin", 7.0, of=3),
    event("head", "step", 50.0, 3, 3),
    event("head", "end", 51.0),
    event("evaluate", "begin", 51.0),
    event("evaluate", "end", 53.0),
    note("deliver", 54.0, "Proof", "frozen: unchanged, bit for bit"),
]
SEEN = """\
Data     1,797 images, 10 classes
Look     1,797/1,797  4.1 s  73/s
Check    The network's best guess is right 99 % of the time. The network's best
         guess is right 99 % of the time.
Train    3/3  44 s
Evaluate 3.0 s
Proof    frozen: unchanged, bit for bit
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
    assert play(io.StringIO()) == SEEN


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(watcher(Terminal()), Lines)


def test_without_stderr_nothing_is_shown():
    assert isinstance(watcher(None), Silent)


def test_on_a_terminal_bars_move_and_the_same_lines_stay(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    text = visible(play(Terminal()))
    assert "━" in text
    for line in SEEN.splitlines():
        assert line.split("  ")[-1] in text


def test_no_color_is_honoured(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", play(Terminal()))


def test_a_look_that_the_cache_answers_says_so():
    begin = event("look", "begin", 0.0, of=0, missing=0, total=300)
    assert play(io.StringIO(), [begin]) == "Look     300 kept from an earlier look  0.0 s\n"


def broken(events):
    stream = io.StringIO()
    lines = watcher(stream)
    lines.__enter__()
    for each in events:
        lines.show(each)
    lines.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    return stream.getvalue()


def test_a_job_that_breaks_shows_how_far_it_came():
    events = [event("look", "step", 1.0, 64, 300, per_second=8.25)]
    assert broken(events) == "Look     64/300  0.0 s  8.2/s\n"


def test_a_job_that_breaks_at_once_shows_nothing():
    assert broken([event("read", "begin", 1.0)]) == ""


def test_time_left_is_a_guess_from_the_speed():
    from warmstart.show.bars import time_left
    from warmstart.show.progress import Stage

    unknown = Stage("check", began=0.0, latest=9.0)
    assert time_left(unknown) == ""
    slow = Stage("head", began=0.0, latest=20.0, step=2, of=4)
    assert time_left(slow) == "about 20 s left"
