"""Who is who among several processes, and what they tell each other."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from warmstart.distributed import ALONE, ProcessGroup, here, is_process_error, join_group
from warmstart.errors import ProcessError, UsageError


def test_alone_everything_is_as_it_was():
    with join_group({}) as world:
        assert world == here() == ALONE
    values = np.ones(3)
    assert ALONE.reduce_sum(values) is values
    assert ALONE.gather("a") == ["a"]
    assert ALONE.same("a") == "a"
    assert ALONE.share([1, 2]) == [1, 2]


@pytest.mark.parametrize("told", [("2", "2", "2"), ("a", "2", "2"), ("0", "2", "3")])
def test_an_environment_that_makes_no_sense_is_refused(told):
    names = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    with (
        pytest.raises(UsageError, match="do not name one of several processes"),
        join_group(dict(zip(names, told, strict=True))),
    ):
        pass


def test_errors_of_the_exchange_are_told_from_others():
    error = RuntimeError("[gloo/pair.cc:534] Connection closed by peer")
    assert not is_process_error(error)  # alone there are no others
    assert ProcessGroup(1, 2).share("abcde") == "bd"


JOB = """
import sys
import numpy as np
from warmstart.solve.kernels import mixed_kernels
from warmstart.records.network import FeatureLayer
from warmstart.training.head_families import SketchedRidge
from warmstart.training.head_families import SelectionProblem
from warmstart.distributed import here, join_group
rng = np.random.default_rng(0)
n, tap = 300, FeatureLayer(block=1, pool="avg")
X, y = rng.normal(size=(n, 40)).astype(np.float32), rng.integers(0, 3, n)
folds = tuple(np.flatnonzero(np.arange(n) % 5 == k) for k in range(5))
problem = SelectionProblem(y, 3, tuple(np.array([k]) for k in range(n)), folds)
head = SketchedRidge({tap: 1.0}, lambda tap: X, [0.1, 1.0], 0)
alone = head.refit(problem, 1.0)
trials = [[t.outside for t in found] for found in head.trials(problem)]
with join_group() as world:
    assert world.gather(world.rank) == list(range(world.size))
    assert world.same(world.rank) == 0
    together = head.refit(problem, 1.0)
    again = [[t.outside for t in found] for found in head.trials(problem)]
    for a, b in zip(trials, again):
        for c, d in zip(a, b):
            np.testing.assert_allclose(c, d, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(alone.weights[tap], together.weights[tap], rtol=1e-6, atol=1e-9)
    print("same", here().size)
"""


def job(size, code):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return [
        subprocess.Popen(
            [sys.executable, "-c", code],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={
                **os.environ,
                "RANK": str(rank),
                "WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            },
        )
        for rank in range(size)
    ]


def test_a_head_from_sums_of_several_processes_is_that_of_one():
    for one in job(2, JOB):
        out, err = one.communicate(timeout=120)
        assert out == "same 2\n", err


LOST = """
import os, signal
from warmstart.errors import ProcessError
from warmstart.distributed import join_group
with join_group() as world:
    world.gather(1)
    if world.rank:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        world.gather(2)
    except ProcessError as error:
        print(error)
"""


APART = """
import os, tempfile
from pathlib import Path
import numpy as np
from warmstart.errors import ProcessError
from warmstart.features.cache_key import ScratchKey
from warmstart.features.extraction import ExtractedRows
from warmstart.features.cache_key import Column
from warmstart.features.cache import FeatureCache
from warmstart.features.extraction import _gather
from warmstart.records.data import Example
from warmstart.distributed import join_group
ids = ["0a" * 32, "0b" * 32]
examples = [Example(id=one, label="", split="train", sha256=one) for one in ids]
with join_group() as world, tempfile.TemporaryDirectory() as own:
    place = world.same(own)
    for root in (place, own):
        key = ScratchKey(feature_layers=(Column(name="1.avg"),))
        cache_file = FeatureCache(Path(root)).cache_file(key)
        cache_file.append([ids[world.rank]], [np.ones((1, 3), np.float32)])
        mine = ExtractedRows(cache_file=cache_file, unreadable={}, n_extracted=1, n_decoded=1)
        try:
            print(_gather(mine, examples).n_decoded)
        except ProcessError as error:
            print(error)
        world.gather(None)
"""


def test_features_meet_in_one_cache_or_the_job_ends():
    """In a folder that both share; then in one of its own for each, if not the first's."""
    for rank, one in enumerate(job(2, APART)):
        out, err = one.communicate(timeout=120)
        first, second = out.splitlines()
        assert first == "2", err
        if rank:
            assert "set WARMSTART_CACHE to a folder that all of them share" in second


def test_a_process_that_is_gone_is_an_error_in_one_line():
    first, _ = job(2, LOST)
    out, _ = first.communicate(timeout=120)
    assert out.startswith("another process of this job has died (")
    assert out.count("\n") == 1
    assert issubclass(ProcessError, Exception)
