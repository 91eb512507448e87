"""Checkpoints: exact there and back, damage is noticed, a crash at any moment leaves one."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from warmstart.distributed import ProcessGroup
from warmstart.errors import RunFolderError
from warmstart.records import run_folder
from warmstart.training import checkpoint
from warmstart.training.checkpoint import (
    INDEX,
    Checkpoints,
    NoCheckpoints,
    Snapshot,
    write_joint_checkpoint,
)

KINDS = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]
FACTS = {"step": 3, "best": float("inf"), "loss": [0.1, 1e-300], "größe": None, "on": True}


def state(step=1, n=40):
    """A state with a few kinds of tensors."""
    generator = torch.Generator().manual_seed(step)
    return Snapshot(
        {
            "weight": torch.randn(n, 3, generator=generator),
            "mean": torch.randn(5, generator=generator).to(torch.bfloat16),
            "step": torch.tensor(step),
            "mask": torch.tensor([True, False, True]),
            "empty": torch.zeros(0, 4),
        },
        {"step": step},
    )


def equal(found, saved):
    """Whether a state came back with the same facts, names, dtypes and bits."""
    if found is None or found.facts != saved.facts or found.tensors.keys() != saved.tensors.keys():
        return False
    pairs = [(found.tensors[name], tensor) for name, tensor in saved.tensors.items()]
    return all(a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b) for a, b in pairs)


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def names(path):
    return sorted(file.name for file in path.iterdir())


def test_what_was_saved_comes_back(tmp_path):
    path = tmp_path / "checkpoints"
    first = Checkpoints(path, "key")
    assert first.load() is None
    assert first.load_finished("fold-1") is None
    assert not path.exists()  # asking makes no folder
    first.save(state(1))
    first.save(state(2))
    assert names(path) == ["last.safetensors", "previous.safetensors"]
    for checkpoints in (first, Checkpoints(path, "key")):
        assert equal(checkpoints.load(), state(2))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_kind_of_number_keeps_its_bits(tmp_path, kind):
    raw = torch.randint(0, 256, (24 * 8,), dtype=torch.uint8, generator=torch.Generator())
    tensor = (raw % 2).bool() if kind is torch.bool else raw.view(kind)  # NaN among the floats
    saved = Snapshot({"all": tensor, "none": tensor[:0], "one": tensor[3]}, FACTS)
    Checkpoints(tmp_path, "key").save(saved)
    assert equal(Checkpoints(tmp_path, "key").load(), saved)
    assert load_file(tmp_path / "last.safetensors")["all"].dtype == kind  # others can read it


def test_augmentations_and_other_orders_of_memory_keep_their_values(tmp_path):
    base = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    saved = Snapshot(
        {
            "last": base.to(memory_format=torch.channels_last),
            "across": base.T if base.ndim == 2 else base.permute(3, 1, 0, 2),
            "every second": base[..., ::2],
            "spread": torch.ones(1).expand(7),
            "same": base,
            "again": base,
            "learnt": torch.nn.Parameter(base[0]),
        },
        {},
    )
    Checkpoints(tmp_path, "key").save(saved)
    found = Checkpoints(tmp_path, "key").load()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in saved.tensors.items())
    found.tensors["same"][0] = -1  # what comes back is one's own
    assert torch.equal(found.tensors["again"], base)
    assert torch.equal(Checkpoints(tmp_path, "key").load().tensors["same"], base)


def test_numbers_that_cannot_be_kept_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match=r"z holds torch\.complex64, which cannot be saved"):
        Checkpoints(tmp_path, "key").save(
            Snapshot({"z": torch.zeros(2, dtype=torch.complex64)}, {})
        )
    assert names(tmp_path) == []


def test_a_finished_piece_is_kept_and_its_way_there_dropped(tmp_path):
    checkpoints = Checkpoints(tmp_path, "key")
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    checkpoints.save_finished("fold-1", state(3))
    assert names(tmp_path) == ["finished-fold-1.safetensors"]
    again = Checkpoints(tmp_path, "key")
    assert equal(again.load_finished("fold-1"), state(3))
    assert again.load_finished("fold-2") is None
    assert again.load() is None


def test_a_state_from_before_a_finished_piece_counts_no_more(tmp_path, monkeypatch):
    """Killed when the piece was on disk and the states on the way to it still were."""
    checkpoints = Checkpoints(tmp_path, "key")
    checkpoints.save(state(1))
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    checkpoints.save_finished("fold-1", state(2))
    assert (tmp_path / "last.safetensors").exists()
    assert Checkpoints(tmp_path, "key").load() is None
    Checkpoints(tmp_path, "key").save(state(3))
    assert equal(Checkpoints(tmp_path, "key").load(), state(3))


@pytest.mark.parametrize("name", ["", "../up", "A b", "a/b", ".hidden", "größe"])
def test_a_name_that_is_no_plain_word_is_refused(tmp_path, name):
    for ask in (
        Checkpoints(tmp_path, "key").load_finished,
        lambda n: Checkpoints(tmp_path, "key").save_finished(n, state()),
    ):
        with pytest.raises(ValueError, match="is no name for a finished training"):
            ask(name)
    assert names(tmp_path) == []


def test_files_of_another_key_are_not_seen_and_make_room(tmp_path):
    other = Checkpoints(tmp_path, "other")
    other.save_finished("fold-1", state(1))
    other.save(state(2))
    (tmp_path / "look.json").touch()  # not ours
    mine = Checkpoints(tmp_path, "mine")
    assert mine.load() is None
    assert mine.load_finished("fold-1") is None
    assert equal(Checkpoints(tmp_path, "other").load(), state(2))  # asking has removed nothing
    mine.save(state(3))
    assert names(tmp_path) == ["last.safetensors", "look.json"]
    assert equal(mine.load(), state(3))


def flip(path, place, bit):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with a last and a previous state, never changed."""
    path = tmp_path_factory.mktemp("two")
    checkpoints = Checkpoints(path, "key")
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    checkpoints_of = Checkpoints(path, "key")
    assert equal(checkpoints_of.load(), state(2))
    return path


def damaged(two, damage):
    """What is loaded after some damage to the last state; saving goes on from there."""
    copy = two.parent / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(two, copy)
    damage(copy / "last.safetensors")
    checkpoints = Checkpoints(copy, "key")
    found = checkpoints.load()
    checkpoints.save(state(3))
    assert equal(Checkpoints(copy, "key").load(), state(3))
    if equal(found, state(1)):  # the sound one was not given up for the damaged one
        (copy / "last.safetensors").unlink()
        assert equal(Checkpoints(copy, "key").load(), state(1))
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    share=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
    how=st.sampled_from(["flip", "cut", "overwrite"]),
    junk=st.binary(min_size=1, max_size=64),
)
def test_damage_anywhere_is_noticed(two, share, bit, how, junk):
    content = (two / "last.safetensors").read_bytes()
    place = int(share * len(content))
    after = content[:place]
    if how == "flip":
        after += bytes([content[place] ^ 1 << bit]) + content[place + 1 :]
    elif how == "overwrite":
        after += junk + content[place + len(junk) :]
    found = damaged(two, lambda path: path.write_bytes(after))
    assert equal(found, state(2 if after == content else 1))


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "gone": lambda path: path.unlink(),
    "another file that tells": lambda path: save_file(
        {"weight": torch.zeros(2)}, path, {"format": checkpoint.FORMAT, "key": "key", "serial": "9"}
    ),
    "no number": lambda path: save_file(
        {"weight": torch.zeros(2)}, path, {"format": checkpoint.FORMAT, "key": "key", "serial": "x"}
    ),
    "an image": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_any_damage_falls_back_to_the_state_before(two, damage):
    assert equal(damaged(two, damage), state(1))


def test_a_damaged_piece_of_work_is_done_again(tmp_path):
    Checkpoints(tmp_path, "key").save_finished("fold-1", state(1))
    flip(tmp_path / "finished-fold-1.safetensors", -3, 5)
    checkpoints = Checkpoints(tmp_path, "key")
    assert checkpoints.load_finished("fold-1") is None
    checkpoints.save_finished("fold-1", state(2))
    assert equal(checkpoints.load_finished("fold-1"), state(2))


class Killed(BaseException):
    """Stands in for a kill: nothing after it is done, no clean-up either."""


@pytest.mark.parametrize("moment", range(1, 9))
def test_killed_at_any_moment_a_sound_state_is_left(tmp_path, monkeypatch, moment):
    """Each system call of a write may be the last."""
    for number in (1, 2):
        Checkpoints(tmp_path, "key").save(state(number))
    left = [moment]

    def counted(call):
        def counting(*args, **kwargs):
            left[0] -= 1
            if left[0] <= 0:
                raise Killed
            return call(*args, **kwargs)

        return counting

    with monkeypatch.context() as patch:
        patch.setattr(run_folder.os, "fsync", counted(run_folder.os.fsync))
        patch.setattr(Path, "replace", counted(Path.replace))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        patch.setattr(run_folder.os, "open", counted(run_folder.os.open))
        try:
            Checkpoints(tmp_path, "key").save(state(3))
        except Killed:
            is_killed = True
        else:
            is_killed = False
    found = Checkpoints(tmp_path, "key").load()
    assert equal(found, state(3)) or (is_killed and equal(found, state(2)))
    again = Checkpoints(tmp_path, "key")
    again.save(state(4))
    assert equal(Checkpoints(tmp_path, "key").load(), state(4))
    assert not list(tmp_path.glob("*.partial"))


def test_a_disk_that_is_really_full(tmp_path):
    """/dev/full takes nothing: the error has its number, and is not one of a library."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    checkpoints = Checkpoints(tmp_path, "key")
    checkpoints.save(state(1))
    (tmp_path / "next.safetensors.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        checkpoints.save(state(2, n=100_000))
    assert caught.value.errno == errno.ENOSPC
    assert names(tmp_path) == ["last.safetensors"]
    assert equal(Checkpoints(tmp_path, "key").load(), state(1))


class Clock:
    """Time that passes only when told to."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_the_first_is_due_after_some_work_and_then_every_ten_seconds(tmp_path):
    clock = Clock()
    checkpoints = Checkpoints(tmp_path, "key", clock)
    clock.now += 100  # a long look before any training
    assert not checkpoints.is_due
    clock.now += checkpoint.FIRST
    assert checkpoints.is_due
    checkpoints.save(state())
    assert not checkpoints.is_due
    clock.now += checkpoint.EVERY - 0.1
    assert not checkpoints.is_due
    clock.now += 0.1
    assert checkpoints.is_due


@pytest.mark.parametrize("took", [0.001, 0.4, 60.0])
def test_writing_takes_a_small_share_of_the_time(tmp_path, monkeypatch, took):
    """However slow the disk is: 3 % from the first one on."""
    clock = Clock()
    checkpoints = Checkpoints(tmp_path, "key", clock)

    def slow(path, chunks):
        clock.now += took
        list(chunks)
        path.touch()

    monkeypatch.setattr(checkpoint, "write_chunks", slow)
    written, began, n = 0.0, None, 0
    while n < 12:
        if checkpoints.is_due:
            if began is not None:
                written += took
            checkpoints.save(state(n=1))
            n += 1
            began = clock.now if began is None else began
        clock.now += 0.05
    assert written <= 0.031 * (clock.now - began)
    if took < 0.3:
        assert (clock.now - began) / (n - 1) < 10.5  # at least every ten seconds


def test_nothing_is_kept_where_nothing_is_to_be_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoints = NoCheckpoints()
    checkpoints.save(state())
    checkpoints.save_finished("fold-1", state())
    assert checkpoints.load() is None
    assert checkpoints.load_finished("fold-1") is None
    assert not checkpoints.is_due
    checkpoints.clear()
    assert names(tmp_path) == []
    assert tmp_path.exists()


def joint_state(step):
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
    states = [joint_state(step) for step in range(5)]
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
    write_joint_checkpoint(tmp_path / "a", joint_state(1).tensors, {})
    assert {path.suffix for path in (tmp_path / "a").iterdir()} == {".json", ".safetensors"}


@pytest.mark.parametrize("damage", ["flip", "cut", "gone", "index", "unfinished"])
def test_a_damaged_one_is_not_read_and_the_one_before_is(tmp_path, damage):
    checkpoints, states = Checkpoints(tmp_path, "key"), [joint_state(1), joint_state(2)]
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
        write_joint_checkpoint(tmp_path / "a", joint_state(1).tensors, {})
    assert not (tmp_path / "a").exists()
