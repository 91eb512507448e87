"""One block after the other over everything; a finished block is not run again."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import pytest

from warmstart.errors import TrainingError
from warmstart.events import drain
from warmstart.features.cache_key import BATCH
from warmstart.features.offload import BlockQueue, OffloadedBlock, clear_queues

CONTENTS = [f"{number:064x}" for number in range(BATCH + 5)]


def feed(contents=CONTENTS):
    for at in range(0, len(contents), BATCH):
        some = contents[at : at + BATCH]
        yield some, np.array([[int(content, 16)] * 3 for content in some], np.uint8)


def add_one(calls, name, rows):
    assert len(rows) == BATCH  # padded: a row must not depend on its neighbours
    calls.append(name)
    values = rows.astype(np.float32) + 1
    return values, [values[:, :2] * 10] if name != "b" else []


def block_queue(folder, calls, names=("a", "b", "c"), **options):
    blocks = [
        OffloadedBlock(name=name, cost=1, open=lambda n=name: partial(add_one, calls, n))
        for name in names
    ]
    queue = BlockQueue(folder=folder / "offload" / "one", blocks=blocks, dtype="float32", **options)
    queue.folder.parent.mkdir(parents=True, exist_ok=True)
    queue.open(CONTENTS)
    return queue


def test_rows_go_through_every_block_in_order(tmp_path):
    queue = block_queue(tmp_path, calls := [], keeps_last=True)
    drain(queue.run(len(CONTENTS), feed))
    assert calls == ["a", "a", "b", "b", "c", "c"]
    contents, rows = zip(*queue.rows(), strict=True)
    assert [c for some in contents for c in some] == CONTENTS
    main, first, last = (np.concatenate(column) for column in zip(*rows, strict=True))
    numbers = np.arange(len(CONTENTS), dtype=np.float32)
    assert np.array_equal(main[:, 0], numbers + 3)
    assert np.array_equal(first[:, 1], 10 * (numbers + 1))
    assert np.array_equal(last[:, 1], 10 * (numbers + 3))
    assert {p.name for p in queue.folder.iterdir()} == {
        "progress.json",
        "main-3.rows",
        "layers-1.rows",
        "layers-2.rows",
        "layers-3.rows",
    }
    queue.clear()
    assert not queue.folder.exists()


def test_a_finished_block_is_not_run_again(tmp_path):
    queue = block_queue(tmp_path, calls := [])
    work = queue.run(len(CONTENTS), feed)
    for _ in range(3):  # two batches of the first block, one of the second
        event = next(work)
    assert event.values["block"] == 2
    work.close()
    again = block_queue(tmp_path, calls := [])
    assert again.progress.blocks == 1
    drain(again.run(len(CONTENTS), feed))
    assert calls == ["b", "b", "c", "c"]
    assert len([*again.rows()]) == 2


def test_the_output_of_one_block_is_saved_beside_the_feature_layers(tmp_path):
    """Also where a later process goes on; one that needs a removed file starts again."""
    queue = block_queue(tmp_path, [], saved_block=1)
    work = queue.run(len(CONTENTS), feed)
    for _ in range(5):  # two batches of the first and second block, one of the third
        next(work)
    work.close()
    queue = block_queue(tmp_path, calls := [], saved_block=1)
    assert queue.progress.blocks == 2
    drain(queue.run(len(CONTENTS), feed))
    assert calls == ["c", "c"]
    contents, rows = zip(*queue.saved_rows(), strict=True)
    assert [c for some in contents for c in some] == CONTENTS
    assert np.array_equal(np.concatenate(rows)[:, 0], np.arange(len(CONTENTS)) + 1.0)
    assert block_queue(tmp_path, [], saved_block=1).progress.blocks == 3
    assert block_queue(tmp_path, [], saved_block=2).progress.blocks == 0


@pytest.mark.parametrize("harm", ["another set", "a file cut short", "a file gone", "no JSON"])
def test_what_does_not_belong_together_is_started_again(tmp_path, harm):
    queue = block_queue(tmp_path, [], ("a", "b"))
    work = queue.run(len(CONTENTS), feed)
    for _ in range(3):
        next(work)
    work.close()
    path = queue.folder / "main-1.rows"
    if harm == "another set":
        queue.open(CONTENTS[1:])
        assert queue.progress.blocks == 0
        return
    if harm == "no JSON":
        (queue.folder / "progress.json").write_text("{")
    elif harm == "a file gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    assert block_queue(tmp_path, [], ("a", "b")).progress.blocks == 0


def test_half_precision_that_cannot_hold_a_value_says_which_block(tmp_path):
    def open_it():
        return lambda rows: (np.full((len(rows), 1), 1e6, np.float32), [])

    blocks = [
        OffloadedBlock(name="stem", cost=1, open=open_it),
        OffloadedBlock(name="top", cost=1, open=open_it),
    ]
    queue = BlockQueue(folder=tmp_path / "offload" / "one", blocks=blocks, dtype="float16")
    queue.folder.mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"block 1 \(stem\) gives 1e\+06.*offload=float32"):
        drain(queue.run(len(CONTENTS), feed))


def test_what_was_left_is_thrown_away_unless_it_is_at_work(tmp_path):
    queue = block_queue(tmp_path, [], ("a", "b"))
    drain(queue.run(len(CONTENTS), feed))
    assert clear_queues(tmp_path, older_s=3600) == 0
    with queue.lock():
        assert clear_queues(tmp_path) == 0
    time.sleep(0.01)
    assert clear_queues(tmp_path) > 1000
    assert not queue.folder.exists()
