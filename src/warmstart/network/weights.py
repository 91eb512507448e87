"""Weights from and to files: read without running code, unwrapped, checked, memory-mapped, written.

A network may be larger than memory. Its tensors are then windows on a safetensors file
(https://github.com/huggingface/safetensors#format): the pages that a layer reads come in from
disk, and are released after it has run.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from warmstart.errors import ModelError, first_line
from warmstart.records.network import InputChange

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_DAMAGE = (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError)

Weights = dict[str, Tensor]


def read_weights(path: Path) -> Weights:
    """Read a state dict from .safetensors, .pt, .pth or .bin; no code in the file is run.

    Common wrappers ({"state_dict": …}) and prefixes ("module.") are removed.
    Raises: ModelError if the file is missing, damaged, holds code, or holds no weights.
    """
    if not path.is_file():
        raise ModelError(f"{path} does not exist; check the path of the weights.")
    if path.suffix not in SUFFIXES:
        raise ModelError(f"{path.name}: weights are read from {', '.join(SUFFIXES)} only.")
    weights = _unwrap(_read(path))
    if not isinstance(weights, Mapping) or not weights:
        raise ModelError(f"{path.name} holds no weights; save `model.state_dict()` into it.")
    for name, value in weights.items():
        if not isinstance(value, Tensor):
            fault = f"{name!r} is a {type(value).__name__}, not a tensor"
            raise ModelError(f"{path.name}: {fault}; save `model.state_dict()` alone.")
    return _without_prefix({str(name): value for name, value in weights.items()})


def map_weights(path: Path) -> Weights:
    """As `read_weights`, with large tensors memory-mapped: each is read when it is used.

    Raises: ModelError for any other file than .safetensors, a damaged one, or weights that are
    not float32.
    """
    if path.suffix != ".safetensors" or not path.is_file():
        raise ModelError(
            f"{path.name}: only a .safetensors file can be streamed; save the weights as one, or "
            "use --set training.offload=false."
        )
    try:
        weights = _without_prefix(map_file(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(path, error) from error
    for name, tensor in weights.items():
        if isinstance(tensor, Mapped) and tensor.dtype != torch.float32:
            fault = f"{name} is {str(tensor.dtype).removeprefix('torch.')}, which is not converted"
            cure = "save the weights as float32."
            raise ModelError(f"{path.name}: {fault} while it is streamed; {cure}")
    return weights


def _read(path: Path) -> Any:
    is_pickle = path.suffix != ".safetensors"
    try:
        if is_pickle:
            return torch.load(path, map_location="cpu", weights_only=True)
        return load_file(path)
    except (SafetensorError, *_DAMAGE) as error:
        if is_pickle and any(w in str(error) for w in ("Unsupported", "TorchScript", "blocked")):
            raise ModelError(
                f"{path.name} holds code, not only weights; it was not opened. "
                "Save `model.state_dict()` with safetensors."
            ) from error
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> ModelError:
    reason = first_line(error, 120)
    return ModelError(f"{path.name} is damaged or cut short ({reason}); copy or download it again.")


def _unwrap(content: Any) -> Any:
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            return _unwrap(content[key])
    return content


def _without_prefix(weights: Weights) -> Weights:
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            return _without_prefix({n.removeprefix(prefix): t for n, t in weights.items()})
    return weights


def check_match(
    expected: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    where: str,
    cure: str = "check --arch",
) -> None:
    """Compare names and shapes; `where` names the file in the message, `cure` ends it.

    Raises: ModelError at the first tensor that is missing, extra or of another shape.
    """
    for name, tensor in expected.items():
        if name not in weights:
            raise ModelError(f"{where}: {name} is missing; {cure}.")
        shape, needed = tuple(weights[name].shape), tuple(tensor.shape)
        if shape != needed:
            raise ModelError(
                f"{where}: {name} has shape {shape}, the network needs {needed}; {cure}."
            )
    for name in weights:
        if name not in expected:
            raise ModelError(f"{where}: {name} is not in the network; {cure}.")


def check_finite(weights: Mapping[str, Tensor], where: str) -> None:
    """Refuse NaN and infinity.

    Raises: ModelError naming the first tensor that holds one.
    """
    for name, tensor in weights.items():
        # A finite sum rules both out; one that is not finite may only have overflowed.
        if not bool(torch.isfinite(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
            raise ModelError(f"{where}: {name} holds NaN or infinity; use an earlier checkpoint.")
        release(tensor)


def match_by_order(
    expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], where: str
) -> Weights:
    """`weights` under the names of `expected`, matched by position.

    For weights of the same architecture published under other names.
    Raises: ModelError where their number or a shape differs.
    """
    cure = "install the package again"
    n, needed = len(weights), len(expected)
    if n != needed:
        raise ModelError(f"{where}: {n} tensors, the network has {needed}; {cure}.")
    renamed = dict(zip(expected, weights.values(), strict=True))
    check_match(expected, renamed, where, cure)
    return renamed


# ---- Weights that stay in their file: memory-mapped for reading, written one tensor at a time.


LEAST_BYTES = 1 << 16  # smaller tensors are read: a window on less than a few pages saves nothing
_LENGTH = 8  # bytes before the header, which hold its length
_DTYPES = {  # in the order in which the library writes them, the last ones first
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "F32": torch.float32,
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


class Mapped(nn.Parameter):
    """A parameter whose values stay in a file; a deep copy of it is an ordinary parameter.

    Values written into it are lost when its pages are released.
    """

    pages: mmap.mmap
    start: int
    stop: int

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Parameter:
        clone = nn.Parameter(self.data.clone(), self.requires_grad)
        release(self)
        memo[id(self)] = clone
        return clone


def release(tensor: Tensor) -> None:
    """Free the pages of a mapped tensor until its next use; any other tensor is left alone."""
    if isinstance(tensor, Mapped) and hasattr(mmap, "MADV_DONTNEED"):
        first = tensor.start - tensor.start % mmap.PAGESIZE
        tensor.pages.madvise(mmap.MADV_DONTNEED, first, tensor.stop - first)


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
        mapped.pages, mapped.start, mapped.stop = pages, start, stop
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
    """Offset of the first tensor, and type, shape and offsets of each."""
    # The library checks the layout first, and accepts neither deep nor oversized JSON.
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise ValueError(first_line(error, 200)) from error
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

    Tensors must be contiguous, without ties.
    """
    dtypes = list(_CODES)
    order = sorted(tensors, key=lambda n: (-dtypes.index(tensors[n].dtype), n))
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    begin = 0
    for name in order:
        code, shape = _CODES[tensors[name].dtype], list(tensors[name].shape)
        end = begin + tensors[name].nbytes
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [begin, end]}
        begin = end
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


# ---- The tensors of a network, each once, and the hashes of their bytes.
#
# A tensor is identified by its name in `module.state_dict()`. Tied tensors (one storage under
# several names) count once, under the first of their names.


M = TypeVar("M", bound=nn.Module)
# What a normalisation layer gathers from the data it sees; no parameters.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, tied ones under each, in the module's order."""
    state = module.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def unique_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name, tied ones once, in the module's order."""
    unique: dict[tuple[int, ...], tuple[str, Tensor]] = {}
    for name, tensor in named_tensors(module).items():
        unique.setdefault(place(tensor), (name, tensor))
    return dict(unique.values())


def n_parameters(module: nn.Module) -> int:
    """Number of parameters, tied ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def place(tensor: Tensor) -> tuple[int, ...]:
    """Location of a tensor's bytes: equal for tied tensors, different for all others."""
    if tensor.numel() == 0:  # all empty storages share the address 0
        return (0, id(tensor))
    return (tensor.untyped_storage().data_ptr(), int(tensor.storage_offset()), tensor.numel())


def digest(tensor: Tensor) -> str:
    """sha256 of dtype, shape and bytes of one tensor, in hex."""
    return _updated(hashlib.sha256(), "", tensor).hexdigest()


def digests(module: nn.Module) -> dict[str, str]:
    """sha256 of each tensor by name; `write_ledger` compares with them later."""
    return {name: digest(tensor) for name, tensor in unique_tensors(module).items()}


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over name, dtype, shape and bytes of all tensors, sorted by name."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        _updated(total, name, tensors[name])
    return total.hexdigest()


def input_change(
    name: str, before: Tensor | None, after: Tensor | None, because: str
) -> InputChange:
    """The record of a tensor that surgery at the input reshaped, added or dropped."""
    return InputChange(
        tensor=name,
        fate="new" if before is None else "dropped" if after is None else "reshaped",
        shape_before=None if before is None else tuple(before.shape),
        shape_after=None if after is None else tuple(after.shape),
        before=None if before is None else digest(before),
        because=because,
    )


def _updated(total: hashlib._Hash, name: str, tensor: Tensor) -> hashlib._Hash:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
    total.update(flat.numpy().data)
    release(tensor)
    return total


def in_channels_last(module: M) -> M:
    """Set 2-D kernels to channels_last order, but for mapped ones, and those beside 3-D kernels."""
    if any(tensor.ndim == 5 for tensor in module.parameters()):
        return module
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 4 and not isinstance(tensor, Mapped):
            tensor.data = tensor.data.to(memory_format=torch.channels_last)
    return module
