"""Weights that stay in their file: memory-mapped for reading, written one tensor at a time.

A network may be larger than memory. Its tensors are then windows on a safetensors file
(https://github.com/huggingface/safetensors#format): the pages that a layer reads come in from
disk, and are released after it has run. Writing copies tensor by tensor.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

LEAST_BYTES = 1 << 16  # smaller tensors are read: a window on less than a few pages saves nothing
_LENGTH = 8  # bytes before the header, which hold its length
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "U64": torch.uint64,
    "BOOL": torch.bool,
}
_RANKS = ("BOOL", "U8", "I8", "I16", "F16", "BF16", "I32", "F32", "F64", "I64", "U64")
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """The pages of a mapped file behind one tensor."""

    pages: mmap.mmap
    start: int
    stop: int

    def release(self) -> None:
        """Free the pages; they are loaded again on the next read."""
        first = self.start - self.start % mmap.PAGESIZE
        if hasattr(mmap, "MADV_DONTNEED"):
            self.pages.madvise(mmap.MADV_DONTNEED, first, self.stop - first)


class Mapped(nn.Parameter):
    """A parameter whose values stay in a file; a deep copy of it is an ordinary parameter.

    Values written into it are lost when its pages are released.
    """

    window: Window

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Parameter:
        clone = nn.Parameter(self.data.clone(), self.requires_grad)
        release(self)
        memo[id(self)] = clone
        return clone


def release(tensor: Tensor) -> None:
    """Free the pages of a mapped tensor; any other tensor is left alone."""
    if isinstance(tensor, Mapped):
        tensor.window.release()


def is_mapped(module: nn.Module) -> bool:
    """Whether some weights of a module stay in a file."""
    return any(isinstance(parameter, Mapped) for parameter in module.parameters())


def map_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file: large ones as windows on it, small ones in memory.

    Raises: ValueError for any other or a truncated file; OSError if it cannot be opened.
    """
    begin, header = _header(path)
    with open(path, "rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    tensors: dict[str, Tensor] = {}
    for name, entry in header.items():
        start, stop = (begin + offset for offset in entry["data_offsets"])
        dtype, shape = _DTYPES.get(entry["dtype"]), tuple(entry["shape"])
        if dtype is None:
            raise ValueError(f"{name[:80]!r} holds numbers of type {entry['dtype']}")
        if stop > len(pages):  # truncated since the header was read
            raise ValueError(f"{name[:80]!r} reaches beyond its end")
        count = (stop - start) // dtype.itemsize
        if not count:
            tensors[name] = torch.empty(shape, dtype=dtype)
            continue
        values = torch.frombuffer(pages, dtype=dtype, count=count, offset=start).view(shape)
        if stop - start < LEAST_BYTES:
            tensors[name] = values.clone()
            continue
        tensors[name] = mapped = Mapped(values, requires_grad=False)
        mapped.window = Window(pages, start, stop)
    return tensors


def is_full(path: Path) -> bool:
    """Whether a safetensors file holds float32 weights; False for any other file."""
    try:
        _, header = _header(path)
    except (OSError, ValueError):
        return False
    sizes = [(e["dtype"], e["data_offsets"][1] - e["data_offsets"][0]) for e in header.values()]
    return all(dtype == "F32" for dtype, size in sizes if size >= LEAST_BYTES)


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Offset of the first tensor, and type, shape and offsets of each.

    The library opens the file first, and checks that tensors follow one another, each as long as
    its shape says. Its parser accepts neither deep nor oversized JSON, which Python's would.
    Raises: ValueError in one line, OSError.
    """
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        lines = str(error).strip().splitlines()
        raise ValueError(lines[0][:200] if lines else "no such file") from error
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(_LENGTH), "little")
        header = dict(json.loads(file.read(length), object_pairs_hook=_unique_names))
    header.pop("__metadata__", None)
    return _LENGTH + length, header


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):  # the last one would count
        raise ValueError("a name stands twice in its header")
    return entries


def chunks(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> Iterator[bytes | memoryview]:
    """A safetensors file piece by piece: the bytes that the library itself would write.

    Tensors must be contiguous, without ties. As in the library, larger elements come first,
    then names in order.

    >>> from safetensors.torch import save
    >>> tensors = {"b": torch.zeros(2), "a": torch.ones(3, dtype=torch.int64)}
    >>> b"".join(chunks(tensors)) == save(tensors)
    True
    """
    order = sorted(tensors, key=lambda n: (-_RANKS.index(_CODES[tensors[n].dtype]), n))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name in order:
        tensor = tensors[name]
        size = tensor.numel() * tensor.dtype.itemsize
        header[name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(_LENGTH, "little")
    yield text
    for name in order:
        yield tensors[name].detach().reshape(-1).view(torch.uint8).numpy().data
        release(tensors[name])


def assign_weights(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put tensors into a module without copying; names and shapes must match.

    A layer that holds mapped tensors releases their pages after it has run.
    """
    module.load_state_dict(weights, assign=True)
    for layer in module.modules():
        if any(isinstance(parameter, Mapped) for parameter in layer._parameters.values()):
            layer.register_forward_hook(_release_layer)


def _release_layer(layer: nn.Module, *_: object) -> None:
    for parameter in layer._parameters.values():
        if parameter is not None:
            release(parameter)


def set_memory_format(module: nn.Module, format: torch.memory_format) -> None:
    """Set the memory format of the module's tensors; mapped ones keep theirs."""
    if not is_mapped(module):
        module.to(memory_format=format)  # type: ignore[call-overload]
        return
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 4 and not isinstance(tensor, Mapped):
            tensor.data = tensor.data.to(memory_format=format)
