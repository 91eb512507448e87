"""Tensors in one safetensors file, written piece by piece, and the digest of all it tells."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    torch.float64: "F64", torch.int64: "I64", torch.float32: "F32", torch.int32: "I32",
    torch.float16: "F16", torch.bfloat16: "BF16", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def plain(tensor: Tensor) -> Tensor:
    """The same values on the processor, in row-major order."""
    return tensor.detach().cpu().contiguous()


def _bytes(tensor: Tensor) -> memoryview:
    """A tensor's own bytes, seen as such."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _outline(tensors: Mapping[str, Tensor]) -> list[tuple[str, str, list[int]]]:
    """Name, kind and shape of each tensor; the widest numbers first, so that all lie aligned.

    Raises: TypeError for a kind of numbers that is not kept.
    """
    strange = [name for name, tensor in tensors.items() if tensor.dtype not in _DTYPES]
    if strange:
        raise TypeError(f"{strange[0]} holds {tensors[strange[0]].dtype}, which is not kept")
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    return [(name, _DTYPES[tensors[name].dtype], list(tensors[name].shape)) for name in names]


def digest(tensors: Mapping[str, Tensor], told: Mapping[str, str]) -> str:
    """SHA-256 over all that a file tells: what it says of itself, names, shapes, numbers."""
    outline = _outline(tensors)
    digest = hashlib.sha256(json.dumps([sorted(told.items()), outline]).encode())
    for name, _, _ in outline:
        digest.update(_bytes(tensors[name]))
    return digest.hexdigest()


def chunks(tensors: Mapping[str, Tensor], told: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """A safetensors file, tensor by tensor.

    The library's own writer copies all of them into memory first, and hides the number of an
    error of the system, by which a full disk is told from others.
    """
    header: dict[str, Any] = {"__metadata__": dict(told)}
    offset, outline = 0, _outline(tensors)
    for name, kind, shape in outline:
        end = offset + tensors[name].nbytes
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name, _, _ in outline:
        yield _bytes(tensors[name])
