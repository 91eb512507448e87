"""Batches: together, in order, bounded, and one bad pass ends nothing."""

from __future__ import annotations

import asyncio
import threading

import pytest

from warmstart.serving.app import Batcher
from warmstart.serving.http import HttpProblem
from warmstart.serving.model import ServerLimits


def run(scene, work, limits=None):
    """Play a scene with a batcher at work; returns what it returned and the sizes of passes."""
    sizes = []

    async def play():
        batcher = Batcher(work, limits or ServerLimits(), lambda n, seconds: sizes.append(n))
        at_work = asyncio.create_task(batcher.run())
        try:
            return await scene(batcher)
        finally:
            at_work.cancel()
            batcher.close()

    return asyncio.run(play()), sizes


def doubled(items):
    return [2 * item for item in items]


def test_answers_come_back_in_order_to_whom_asked():
    async def scene(batcher):
        return await asyncio.gather(*(batcher.submit([n, n + 100]) for n in range(50)))

    result, sizes = run(scene, doubled, ServerLimits(batch=8))
    assert result == [[2 * n, 2 * n + 200] for n in range(50)]
    assert sum(sizes) == 100
    assert max(sizes) == 8


def test_what_comes_together_passes_together_in_one_thread():
    async def scene(batcher):
        ident = batcher.run_alone(threading.get_ident)
        return await asyncio.gather(*(batcher.submit([n]) for n in range(20)), ident)

    def work(items):
        return [threading.get_ident() for _ in items]

    answers, sizes = run(scene, work, ServerLimits(batch=32, gather_s=0.05))
    assert sizes == [20]
    threads = {*(one[0] for one in answers[:-1]), answers[-1]}
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


def test_a_pass_that_fails_fails_its_own_images_alone():
    async def scene(batcher):
        with pytest.raises(MemoryError):
            await batcher.submit([0])
        return await batcher.submit([4])

    def work(items):
        if 0 in items:
            raise MemoryError
        return doubled(items)

    assert run(scene, work)[0] == [8]


def test_who_has_gone_is_not_answered():
    passed = []

    def work(items):
        passed.extend(items)
        return doubled(items)

    async def scene(batcher):
        gone = asyncio.create_task(batcher.submit([1]))
        await asyncio.sleep(0)
        gone.cancel()
        return await batcher.submit([2])

    assert run(scene, work, ServerLimits(gather_s=0.05))[0] == [4]
    assert passed == [2]


def test_few_explanations_at_a_time():
    gate = threading.Event()

    async def scene(batcher):
        two = [asyncio.create_task(batcher.run_alone(lambda: gate.wait(20))) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(HttpProblem) as content:
            await batcher.run_alone(lambda: None)
        gate.set()
        await asyncio.gather(*two)
        return content.value.status, await batcher.run_alone(lambda: 7)

    assert run(scene, doubled, ServerLimits(explaining=2))[0] == (503, 7)
