"""Weights that stay in their file: mapped when they are read, written one after the other.

A network may be larger than memory. Its tensors are then windows on a safetensors file
(https://github.com/huggingface/safetensors#format): the pages that a layer reads come in from
disk, and are let go when it has run. What is written is copied through, tensor by tensor.
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
_LENGTH = 8  # bytes before the header, which say how long it is
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
        """Let the pages go; they come in again when they are read."""
        first = self.start - self.start % mmap.PAGESIZE
        if hasattr(mmap, "MADV_DONTNEED"):
            self.pages.madvise(mmap.MADV_DONTNEED, first, self.stop - first)


class Mapped(nn.Parameter):
    """A parameter whose values stay in a file. A deep copy of it is an ordinary parameter.

    What is written into it is lost when its pages are let go.
    """

    window: Window

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Parameter:
        """A copy in memory."""
        made = nn.Parameter(self.data.clone(), self.requires_grad)
        release(self)
        memo[id(self)] = made
        return made


def release(tensor: Tensor) -> None:
    """Let the pages of a mapped tensor go; nothing happens to any other."""
    if isinstance(tensor, Mapped):
        tensor.window.release()


def is_mapped(module: nn.Module) -> bool:
    """Whether some weights of a module stay in a file.

    >>> is_mapped(nn.Linear(2, 1))
    False
    """
    return any(isinstance(parameter, Mapped) for parameter in module.parameters())


def map_file(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, large ones as windows on it, small ones read.

    Raises: ValueError if it is no such file, or cut short; OSError if it cannot be opened.
    """
    begin, header = _header(path)
    with open(path, "rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    found: dict[str, Tensor] = {}
    for name, told in header.items():
        start, stop = (begin + place for place in told["data_offsets"])
        dtype, shape = _DTYPES.get(told["dtype"]), tuple(told["shape"])
        if dtype is None:
            raise ValueError(f"{name[:80]!r} holds numbers of type {told['dtype']}")
        if stop > len(pages):  # it was cut meanwhile
            raise ValueError(f"{name[:80]!r} reaches beyond its end")
        count = (stop - start) // dtype.itemsize
        if not count:
            found[name] = torch.empty(shape, dtype=dtype)
            continue
        values = torch.frombuffer(pages, dtype=dtype, count=count, offset=start).view(shape)
        if stop - start < LEAST_BYTES:
            found[name] = values.clone()
            continue
        found[name] = window = Mapped(values, requires_grad=False)
        window.window = Window(pages, start, stop)
    return found


def is_full(path: Path) -> bool:
    """Whether the weights in a safetensors file are float32; False where it is no such file."""
    try:
        _, header = _header(path)
    except (OSError, ValueError):
        return False
    sizes = [(e["dtype"], e["data_offsets"][1] - e["data_offsets"][0]) for e in header.values()]
    return all(dtype == "F32" for dtype, size in sizes if size >= LEAST_BYTES)


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the tensors begin, and what is said of each: types, shapes, places in the file.

    The library reads it first, and checks that tensors lie one behind the other, each as long as
    its shape says: what comes after is as it should be. Its parser knows what may stand there
    and so takes neither deep JSON nor much of it, which Python's would.
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
        pairs = json.loads(file.read(length), object_pairs_hook=_once)
    header = dict(pairs)
    header.pop("__metadata__", None)
    return _LENGTH + length, header


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Raises: ValueError for a name that stands twice: whichever came last would count."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in its header")
    return found


def chunks(
    tensors: Mapping[str, Tensor], told: Mapping[str, str] | None = None
) -> Iterator[bytes | memoryview]:
    """A safetensors file piece by piece: the bytes that the library itself would write.

    Tensors must be contiguous, and each stand once. Larger elements come first, then names in
    their order, as the library has it. `told` stands in the header as its metadata.

    >>> from safetensors.torch import save
    >>> tensors = {"b": torch.zeros(2), "a": torch.ones(3, dtype=torch.int64)}
    >>> b"".join(chunks(tensors)) == save(tensors)
    True
    """
    order = sorted(tensors, key=lambda name: (-_rank(tensors[name].dtype), name))
    header: dict[str, Any] = {"__metadata__": dict(told)} if told else {}
    place = 0
    for name in order:
        tensor = tensors[name]
        size = tensor.numel() * tensor.dtype.itemsize
        header[name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, place + size],
        }
        place += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(_LENGTH, "little")
    yield text
    for name in order:
        flat = tensors[name].detach().reshape(-1).view(torch.uint8)
        yield flat.numpy().data
        release(tensors[name])


def _rank(dtype: torch.dtype) -> int:
    """The library's order of types; the last of it comes first in a file."""
    return _RANKS.index(_CODES[dtype])


def share(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Put tensors into a module as they are, where its own have the same names and shapes.

    Each layer that holds mapped ones lets their pages go when it has run.
    """
    module.load_state_dict(weights, assign=True)
    for layer in module.modules():
        if any(isinstance(parameter, Mapped) for parameter in layer._parameters.values()):
            layer.register_forward_hook(_let_go)


def _let_go(layer: nn.Module, *_: object) -> None:
    for parameter in layer._parameters.values():
        if parameter is not None:
            release(parameter)


def lay_out(module: nn.Module, format: torch.memory_format) -> None:
    """Order the module's tensors in memory; those that stay in a file stay as they are."""
    if not is_mapped(module):
        module.to(memory_format=format)  # type: ignore[call-overload]
        return
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 4 and not isinstance(tensor, Mapped):
            tensor.data = tensor.data.to(memory_format=format)
