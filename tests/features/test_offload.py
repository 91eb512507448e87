"""One block after the other over everything is the network; a finished one is not run again."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "contracts"))

from networks import KINDS, cut_once, inputs_for

from warmstart.errors import TrainingError
from warmstart.events import drain
from warmstart.features.cache_key import BATCH
from warmstart.features.offload import BlockQueue, OffloadedBlock, SingleBlock, clear_queues
from warmstart.network.feature_layers import FeatureExtractor, feature_layers

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


def stop_after(n_batches, queue):
    """Stop after some batches: two make a block."""
    work = queue.run(len(CONTENTS), feed)
    for _ in range(n_batches):
        event = next(work)
    assert event.values["block"] == (n_batches + 1) // 2
    work.close()


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
    assert not (queue.folder / "main-2.rows").exists()
    queue.clear()
    assert not queue.folder.exists()


def test_a_finished_block_is_not_run_again(tmp_path):
    stop_after(3, block_queue(tmp_path, []))
    again = block_queue(tmp_path, calls := [])
    assert again.progress.blocks == 1
    drain(again.run(len(CONTENTS), feed))
    assert calls == ["b", "b", "c", "c"]
    assert len([*again.rows()]) == 2


def test_the_output_of_one_block_is_saved_beside_the_feature_layers(tmp_path):
    """Also where a later process goes on; one that needs a removed file starts again."""
    stop_after(5, block_queue(tmp_path, [], saved_block=1))
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
    stop_after(3, queue)
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
    def run(rows):
        return np.full((len(rows), 1), 1e6, np.float32), []

    blocks = [OffloadedBlock(name=name, cost=1, open=lambda: run) for name in ("stem", "top")]
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


# ---- blocks one by one, each on its own copies


@pytest.mark.parametrize("name", KINDS)
def test_blocks_one_after_the_other_compute_the_network(name):
    _, network = cut_once(name)
    offered, main = feature_layers(network.record), inputs_for(name)
    result = {}
    with torch.inference_mode():
        expected = FeatureExtractor(network, offered)(main.clone())
        for number in range(1, len(network.blocks) + 1):
            module = SingleBlock(network, number, offered)
            main, *selected = module(main.clone())
            result |= dict(zip(module.feature_layers, selected, strict=True))
    assert [*result] == [*offered]
    for layer, values in zip(offered, expected, strict=True):
        assert torch.allclose(result[layer], values, atol=1e-5, rtol=1e-5), layer.name


def test_a_block_holds_its_own_tensors_alone():
    _, network = cut_once("resnet18")
    module = SingleBlock(network, 2, feature_layers(network.record))
    own = {id(tensor) for tensor in network.backbone.parameters()}
    assert sum(p.numel() for p in module.parameters()) == network.record.blocks[1].parameters
    assert not own & {id(parameter) for parameter in module.parameters()}
