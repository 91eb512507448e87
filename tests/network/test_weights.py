"""Weights in files: mapped, written piece by piece, refused; and the tensors of a network."""

from __future__ import annotations

import copy
import json
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save as save_arrays
from safetensors.torch import load_file, save, save_file
from torch import nn

from warmstart.errors import ModelError
from warmstart.network.weights import (
    Mapped,
    assign_weights,
    chunks,
    in_channels_last,
    is_full,
    is_mapped,
    map_file,
    map_weights,
    read_weights,
    release,
    tensor_digest,
    unique_tensors,
)

NAMES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool"
KINDS = [getattr(torch, name) for name in NAMES.split()]


def tensors():
    """One of each kind, a large one, one without a value and one without an axis."""
    generator = torch.Generator().manual_seed(0)
    result = {f"kind.{kind}": torch.ones(3).to(kind) for kind in KINDS}
    return {
        **result,
        "ß": torch.zeros(1),
        "none": torch.empty(0, 3),
        "one": torch.tensor(2.0),
        "large": torch.randn(150, 160, generator=generator),
    }


def test_what_is_written_piece_by_piece_is_what_the_library_writes():
    assert b"".join(chunks(tensors())) == save(tensors())


def test_names_beside_them_and_numbers_without_a_sign_are_written_likewise():
    arrays = {"points": np.ones((3, 2), np.float16), "learnt": np.array([2**64 - 1, 3], np.uint64)}
    metadata = {"ids": json.dumps(["a/ß.jpg", 'b "c"\\.jpg', "d\n\t\x01\x7f"], ensure_ascii=False)}
    result = {name: torch.from_numpy(values) for name, values in arrays.items()}
    assert b"".join(chunks(result, metadata)) == save_arrays(arrays, metadata=metadata)


def test_a_mapped_file_holds_what_was_saved_and_large_tensors_stay_there(tmp_path):
    save_file(tensors(), tmp_path / "a.safetensors", metadata={"by": "me"})
    result = map_file(tmp_path / "a.safetensors")
    assert result.keys() == tensors().keys()
    assert all(torch.equal(result[name], value) for name, value in tensors().items())
    assert [name for name, value in result.items() if isinstance(value, Mapped)] == ["large"]
    release(result["large"])  # the pages come in again
    assert torch.equal(result["large"], tensors()["large"])
    assert b"".join(chunks(result)) == save(tensors())


def test_a_deep_copy_is_in_memory_and_may_be_trained(tmp_path):
    save_file(tensors(), tmp_path / "a.safetensors")
    window = map_file(tmp_path / "a.safetensors")["large"]
    clones = copy.deepcopy({"a": window, "b": window})
    assert clones["a"] is clones["b"]
    assert type(clones["a"]) is nn.Parameter
    clones["a"].data.add_(1)
    release(window)
    assert torch.equal(window, load_file(tmp_path / "a.safetensors")["large"])


def test_layers_run_on_a_file_and_let_go_of_its_pages(tmp_path):
    own = nn.Sequential(nn.Conv2d(3, 40, 40), nn.Flatten(), nn.Linear(40, 2))
    save_file(own.state_dict(), tmp_path / "a.safetensors")
    clone = nn.Sequential(nn.Conv2d(3, 40, 40), nn.Flatten(), nn.Linear(40, 2))
    assign_weights(clone, map_file(tmp_path / "a.safetensors"))
    assert is_mapped(clone)
    assert not is_mapped(own)
    in_channels_last(clone)
    assert clone[0].weight.is_contiguous()  # as it lies in the file
    images = torch.randn(2, 3, 40, 40)
    assert torch.allclose(clone(images), own(images), atol=1e-6)


def written(header, values=bytes(400_000)):
    """A file with this header, text or JSON, however little it makes sense."""
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


def entry(base, stop, shape=(50_000,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [base, stop]}


FIRST = entry(0, 200_000)
BAD = {
    "nothing": b"",
    "a length alone": b"\x10",
    "a length beyond the file": b"\xff" * 8,
    "a header of exabytes": (2**62).to_bytes(8, "little") + b"{}",
    "a list": written("[]"),
    "no JSON": written("{"),
    "no UTF-8": (3).to_bytes(8, "little") + b"\xff\xfe{",
    "a negative start": written({"a": entry(-200_000, 0)}),
    "the end before the beginning": written({"a": entry(200_000, 0)}),
    "a number with a fraction": written({"a": entry(0, 200_000.5)}),
    "a text for a number": written({"a": entry("0", "200000")}),
    "tensors that overlap": written({"a": FIRST, "b": entry(100_000, 300_000)}),
    "a gap": written({"a": FIRST, "b": entry(200_004, 400_004)}),
    "bytes of nobody": written({"a": FIRST}),
    "beyond the end": written({"a": FIRST, "b": entry(200_000, 400_004, (50_001,))}),
    "cut short": save(tensors())[:-4],
    "a negative shape": written({"a": entry(0, 400_000, (-100_000,))}),
    "a shape that runs over": written({"a": entry(0, 400_000, (2**33, 2**33))}),
    "no shape": written({"a": {"dtype": "F32", "data_offsets": [0, 400_000]}}),
    "an unknown type": written({"a": entry(0, 400_000, (100_000,), "F33")}),
    "one name twice": written(
        f'{{"a":{json.dumps(FIRST)},"a":{json.dumps(entry(200_000, 400_000))}}}'
    ),
    "deep lists": written('{"a":' + "[" * 200_000 + "]" * 200_000 + "}"),
    "deep objects": written('{"a":' * 100_000 + "0" + "}" * 100_000),
    "deep metadata": written('{"__metadata__":' + '{"a":' * 50_000 + '""' + "}" * 50_000 + "}"),
    "metadata that are none": written({"__metadata__": 3}),
    "an entry that is none": written({"a": 3}),
    "millions of values": written('{"a":[' + "0," * 2_000_000 + "0]}"),
}


def test_digests_tell_name_shape_dtype_and_any_bit_and_tied_tensors_stand_once():
    values = [
        {"a": torch.zeros(2, 3)},
        {"b": torch.zeros(2, 3)},
        {"a": torch.zeros(3, 2)},
        {"a": torch.zeros(2, 3, dtype=torch.int32)},
        {"a": torch.full((2, 3), -0.0)},
    ]
    assert len({tensor_digest(one) for one in values}) == 5
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    assert list(unique_tensors(module)) == ["0.weight", "0.bias", "1.bias"]


@pytest.mark.parametrize("content", BAD.values(), ids=BAD.keys())
def test_what_is_no_such_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r".") as caught:
            map_file(path)
        assert not is_full(path)
        assert tracemalloc.get_traced_memory()[1] < 10 * len(content) + 10_000_000
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    for read in (map_weights, read_weights):
        with pytest.raises(ModelError, match=r"a\.safetensors is damaged") as metadata:
            read(path)
        assert "\n" not in str(metadata.value)


def test_numbers_of_a_type_that_is_not_streamed_are_named(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(written({"a": entry(0, 400_000, (100_000,), "U32")}))
    with pytest.raises(ModelError, match="'a' holds numbers of type U32"):
        map_weights(path)


def test_a_large_header_is_not_read_to_find_what_kind_of_numbers_there_are(tmp_path):
    path = tmp_path / "a.safetensors"
    with open(path, "wb") as file:
        file.write((2**31).to_bytes(8, "little") + b"{")
        file.truncate(2**31 + 100)  # a hole
    tracemalloc.start()
    try:
        assert not is_full(path)
        with pytest.raises(ValueError, match="header"):
            map_file(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


@settings(max_examples=150, derandomize=True, database=None, deadline=None)
@given(place=st.integers(0, 1200), value=st.integers(0, 255))
def test_a_byte_of_chance_is_refused_or_changes_a_value(tmp_path_factory, place, value):
    """The library reads it or refuses it, and so do we: the same tensors, or none."""
    path = tmp_path_factory.mktemp("chance") / "a.safetensors"
    content = bytearray(save(tensors()))
    content[place] = value
    path.write_bytes(content)
    try:
        wanted = load_file(path)
    except Exception:
        with pytest.raises(ValueError, match=r"."):
            map_file(path)
        return
    result = map_file(path)
    assert result.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert result[name].dtype == tensor.dtype
        assert torch.equal(result[name].nan_to_num(), tensor.nan_to_num())
