"""Checkpoints of several processes: whole or not at all, and without a pickle."""

from __future__ import annotations

import pytest
import torch

from warmstart.distributed import ProcessGroup
from warmstart.errors import RunFolderError
from warmstart.training import checkpoint
from warmstart.training.checkpoint import (
    INDEX,
    Checkpoints,
    JointCheckpoint,
    Snapshot,
    write_joint_checkpoint,
)


def state(step):
    """Some kinds of tensors."""
    tensors = {
        "weight": torch.randn(5, 3).T,
        "step": torch.tensor(float(step)),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "on": torch.tensor([True, False]),
        "none": torch.zeros(0, 4),
    }
    return Snapshot(tensors, {"step": step, "best": float("inf")})


def same(found, saved):
    """Whether a state came back."""
    assert found.facts == saved.facts
    assert found.tensors.keys() == saved.tensors.keys()
    return all(torch.equal(found.tensors[n], t) for n, t in saved.tensors.items())


def test_the_newest_sound_state_comes_back_whichever_way_it_was_written(tmp_path):
    checkpoints = Checkpoints(tmp_path, "key")
    states = [state(step) for step in range(5)]
    checkpoints.save(states[0])
    for one in states[1:4]:
        checkpoints.save_jointly(one)
    again = Checkpoints(tmp_path, "key")
    assert same(again.load(), states[3])
    assert len([*tmp_path.glob("joint-*")]) == 2
    again.save(states[4])
    assert same(Checkpoints(tmp_path, "key").load(), states[4])
    (tmp_path / "last.safetensors").write_bytes(b"torn")
    assert same(Checkpoints(tmp_path, "key").load(), states[3])
    assert Checkpoints(tmp_path, "another").load() is None
    again.save_finished("fold-1", states[0])
    assert [path.name for path in tmp_path.iterdir()] == ["finished-fold-1.safetensors"]


def test_no_file_is_a_pickle(tmp_path):
    write_joint_checkpoint(tmp_path / "a", state(1).tensors, {})
    assert {path.suffix for path in (tmp_path / "a").iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "index", "unfinished"])
def test_a_damaged_one_is_not_read_and_the_one_before_is(tmp_path, damage):
    checkpoints, states = Checkpoints(tmp_path, "key"), [state(1), state(2)]
    for one in states:
        checkpoints.save_jointly(one)
    folder = max(tmp_path.iterdir())
    (file,) = folder.glob("*.safetensors")
    payload, index = bytearray(file.read_bytes()), folder / INDEX
    payload[-1] ^= 1
    hurt = {
        "flip": lambda: file.write_bytes(payload),
        "cut": lambda: file.write_bytes(payload[:40]),
        "gone": file.unlink,
        "index": lambda: index.write_text(index.read_text().replace("Infinity", "1")),
        "unfinished": index.unlink,
    }
    hurt[damage]()
    again = Checkpoints(tmp_path, "key")
    assert same(again.load(), states[0])
    again.save_jointly(states[1])
    assert same(Checkpoints(tmp_path, "key").load(), states[1])
    again.clear()
    assert not tmp_path.exists()


def test_a_disk_that_is_not_shared_is_named(tmp_path, monkeypatch):
    class Apart(ProcessGroup):
        """A process whose other one writes where it cannot see."""

        def gather(self, value):
            return [value, {"shard-00002.safetensors": ""}]

    monkeypatch.setattr(checkpoint, "here", Apart)
    with pytest.raises(RunFolderError, match=r"is not seen by the first; put the run folder \(--"):
        write_joint_checkpoint(tmp_path / "a", state(1).tensors, {})
    assert not (tmp_path / "a").exists()


def test_one_tensor_is_put_together_when_it_is_asked_for(tmp_path):
    saved = state(1)
    write_joint_checkpoint(tmp_path / "a", saved.tensors, {})
    found = JointCheckpoint(tmp_path / "a")
    assert len(found) == len(saved.tensors)
    with pytest.raises(KeyError):
        found["other"]
