"""Progress in a notebook: one output that is replaced."""

import contextlib
import sys
import warnings
from types import ModuleType, SimpleNamespace

from terminal.test_progress import JOB, LINES, event
from warmstart.terminal.progress import (
    REFRESH_S,
    Cell,
    Lines,
    Watcher,
    cell_display,
    python_watcher,
)


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


def test_the_lines_are_those_of_a_log():
    output = Output()
    with Cell(output) as cell:
        for each in JOB:
            cell.show(each)
    assert output.content["text/plain"] + "\n" == LINES


def test_the_running_stage_stands_below_until_it_ends():
    output = Output()
    with Cell(output) as cell:
        for each in JOB[:6]:
            cell.show(each)
        assert output.content["text/plain"].splitlines()[-1].startswith("Features  500/1,797")
        for each in JOB[6:]:
            cell.show(each)
    assert "500/1,797" not in output.content["text/plain"]


def test_it_is_not_written_more_often_than_can_be_read():
    output = Output()
    with Cell(output) as cell:
        cell.show(event("features", "begin", 0.0, of=1000))
        for step in range(1, 1000):
            cell.show(event("features", "step", step / 1000, step, 1000))
    assert output.updates <= 1 / REFRESH_S + 2


def test_html_is_escaped():
    output = Output()
    with Cell(output) as cell:
        cell.show(event("read", "note", 0.0, title="Data", text="<b>1 image</b>"))
    assert "<b>" not in output.content["text/html"]


def test_nothing_is_shown_where_nothing_happens():
    output = Output()
    with Cell(output):
        pass
    assert output.content is None


def test_an_error_leaves_the_finished_stages():
    output = Output()
    with contextlib.suppress(RuntimeError), Cell(output) as cell:
        for each in JOB[:7]:
            cell.show(each)
        raise RuntimeError
    assert "Features  1,797/1,797" in output.content["text/plain"]


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
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    assert cell_display() is None
    ipython(monkeypatch, SimpleNamespace())
    assert cell_display() is None
    ipython(monkeypatch, None)
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
