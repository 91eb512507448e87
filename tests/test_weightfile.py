"""Weights that stay in their file."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save as save_arrays
from safetensors.torch import load_file, save, save_file
from torch import nn

from warmstart.weightfile import Mapped, chunks, is_mapped, lay_out, map_file, release, share

KINDS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
         torch.int16, torch.int8, torch.uint8, torch.bool]  # fmt: skip


def tensors():
    """One of each kind, a large one, one without a value and one without an axis."""
    generator = torch.Generator().manual_seed(0)
    found = {f"kind.{kind}": torch.ones(3).to(kind) for kind in KINDS}
    return {
        **found, "ß": torch.zeros(1), "none": torch.empty(0, 3), "one": torch.tensor(2.0),
        "large": torch.randn(150, 160, generator=generator),
    }  # fmt: skip


def test_what_is_written_piece_by_piece_is_what_the_library_writes():
    assert b"".join(chunks(tensors())) == save(tensors())


def test_names_beside_them_and_numbers_without_a_sign_are_written_likewise():
    arrays = {"points": np.ones((3, 2), np.float16), "learnt": np.array([2**64 - 1, 3], np.uint64)}
    told = {"ids": json.dumps(["a/ß.jpg", 'b "c"\\.jpg', "d\n\t\x01\x7f"], ensure_ascii=False)}
    found = {name: torch.from_numpy(values) for name, values in arrays.items()}
    assert b"".join(chunks(found, told)) == save_arrays(arrays, metadata=told)


def test_a_mapped_file_holds_what_was_saved_and_large_tensors_stay_there(tmp_path):
    save_file(tensors(), tmp_path / "a.safetensors", metadata={"by": "me"})
    found = map_file(tmp_path / "a.safetensors")
    assert found.keys() == tensors().keys()
    assert all(torch.equal(found[name], value) for name, value in tensors().items())
    assert [name for name, value in found.items() if isinstance(value, Mapped)] == ["large"]
    release(found["large"])  # the pages come in again
    assert torch.equal(found["large"], tensors()["large"])
    assert b"".join(chunks(found)) == save(tensors())


def test_a_deep_copy_is_in_memory_and_may_be_trained(tmp_path):
    save_file(tensors(), tmp_path / "a.safetensors")
    window = map_file(tmp_path / "a.safetensors")["large"]
    made = copy.deepcopy({"a": window, "b": window})
    assert made["a"] is made["b"]
    assert type(made["a"]) is nn.Parameter
    made["a"].data.add_(1)
    release(window)
    assert torch.equal(window, load_file(tmp_path / "a.safetensors")["large"])


def test_layers_run_on_a_file_and_let_go_of_its_pages(tmp_path):
    own = nn.Sequential(nn.Conv2d(3, 40, 40), nn.Flatten(), nn.Linear(40, 2))
    save_file(own.state_dict(), tmp_path / "a.safetensors")
    twin = nn.Sequential(nn.Conv2d(3, 40, 40), nn.Flatten(), nn.Linear(40, 2))
    share(twin, map_file(tmp_path / "a.safetensors"))
    assert is_mapped(twin)
    assert not is_mapped(own)
    lay_out(twin, torch.channels_last)
    assert twin[0].weight.is_contiguous()  # as it lies in the file
    images = torch.randn(2, 3, 40, 40)
    assert torch.allclose(twin(images), own(images), atol=1e-6)


@pytest.mark.parametrize("content", [b"\xff" * 8, b"\x02" + b"\0" * 7 + b"[]", b"\x10"])
def test_what_is_no_such_file_is_refused(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises((ValueError, TypeError, AttributeError)):
        map_file(tmp_path / "a.safetensors")


def test_a_file_that_is_cut_short_is_refused(tmp_path):
    whole = save(tensors())
    (tmp_path / "a.safetensors").write_bytes(whole[:-4])
    with pytest.raises(ValueError, match="beyond its end"):
        map_file(tmp_path / "a.safetensors")
