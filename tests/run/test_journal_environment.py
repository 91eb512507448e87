"""What changes results: told, refused where it is another, set where it can be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from warmstart.errors import RunFolderError
from warmstart.features.machine import n_processors
from warmstart.run import journal
from warmstart.run.resume import as_before, check_same

RUN = Path("runs/a")


def changed(**values):
    return {**journal.environment(), **values}


def test_nothing_to_say_where_all_is_as_it_was():
    before = journal.environment()
    assert check_same(RUN, before) == ""
    assert before["packages"]["torch"] == torch.__version__
    assert before["packages"].keys() >= {"warmstart", "numpy", "timm"}
    assert before["processors"] >= 1


@pytest.mark.parametrize(
    ("result", "here"),
    [
        ("9.9.9", f"{torch.__version__} is installed"),
        (None, None),
    ],
)
def test_another_version_is_refused(result, here):
    before = changed()
    if result:
        before["packages"] = {**before["packages"], "torch": result}
        name, old = "torch", result
    else:
        before["packages"] = {**before["packages"], "gone": "1.0"}
        name, old, here = "gone", "1.0", "it is not installed"
    with pytest.raises(RunFolderError) as caught:
        check_same(RUN, before)
    assert str(caught.value) == (
        f"runs/a began with {name} {old}, and {here} now, so that results would differ; "
        f"install {name}=={old} again, or begin a new run with `warmstart fit`."
    )


def test_a_package_that_came_since_does_not_matter():
    before = changed()
    before["packages"] = {n: v for n, v in before["packages"].items() if n != "timm"}
    assert check_same(RUN, before) == ""


def test_fewer_processors_are_refused():
    n = n_processors()  # OMP_NUM_THREADS does not count: a run that goes on has its own number
    with pytest.raises(RunFolderError) as caught:
        check_same(RUN, changed(processors=n + 2))
    assert str(caught.value) == (
        f"runs/a began on {n + 2} processors, and this process may use {n}, so that results would "
        "differ; allow it as many, or begin a new run with `warmstart fit`."
    )


@pytest.mark.parametrize("what", ["cpu", "gpu", "arithmetic"])
def test_another_processor_is_reported(what):
    assert check_same(RUN, changed(**{what: "another"})) == (
        "another processor than before: last digits may differ"
    )


def test_as_many_processors_and_threads_as_before_and_then_as_many_as_now():
    threads = torch.get_num_threads()
    before = changed(processors=1, threads=threads + 1)
    own = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    with as_before(before):
        assert torch.get_num_threads() == threads + 1
        assert own is None or journal.environment()["processors"] == 1
    assert torch.get_num_threads() == threads
    assert own is None or os.sched_getaffinity(0) == own
