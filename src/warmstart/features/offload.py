"""Offloading: a network larger than memory runs block by block over all images.

The output of a block for every image lies on disk until the next block has read it. A finished
block is not run again: the folder records the progress.
"""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from warmstart.distributed import here
from warmstart.errors import RunFolderError, TrainingError
from warmstart.events import Event, Stage, Steps
from warmstart.features.batches import to_tensor
from warmstart.features.cache import FeatureCache, exclusive, is_in_use
from warmstart.features.cache_key import BATCH, CacheFileKey
from warmstart.features.engine import Engine, Pixels, lay_out
from warmstart.network.feature_layers import plan_scan, quick_linear
from warmstart.network.partition import Network
from warmstart.network.segments import SegmentStep
from warmstart.records.inputs import Inputs
from warmstart.records.network import BlockRecord, FeatureLayer
from warmstart.records.run_folder import read_json, write_json

Values = NDArray[Any]
Floats = NDArray[np.float32]
Chunk = tuple[Sequence[str], Values]  # content hashes, and an input for each
# Inputs (b, …) to the output of the block, (b, width), and its feature layers, (b, d) each.
RunBlock = Callable[[Values], tuple[Floats, list[Floats]]]
FOLDER = "offload"  # in the cache folder
MAX_AGE_S = 7 * 24 * 3600  # an interrupted queue that is older is removed


@dataclass(frozen=True, slots=True, kw_only=True)
class OffloadedBlock:
    """One block: its name, its multiply-adds an image, and how it is loaded into memory."""

    name: str
    cost: int
    open: Callable[[], RunBlock]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueProgress:
    """How far a queue came: finished blocks, the contents they ran on, widths of their outputs."""

    blocks: int = 0
    contents: tuple[str, ...] = ()
    width: int = 0  # of the output of the last finished block
    saved_width: int = 0  # of the block whose output is saved
    feature_layers: tuple[tuple[int, ...], ...] = ()


@dataclass(kw_only=True)
class BlockQueue:
    """Blocks to run over some images. `dtype`: the number format of their outputs on disk.

    `keeps_last`: whether the output of the last block is needed, not its feature layers alone.
    `saved_block`: an earlier block whose output is needed as well; 0 for none.
    """

    folder: Path
    blocks: Sequence[OffloadedBlock]
    dtype: str
    keeps_last: bool = False
    saved_block: int = 0
    stage: Stage = "features"
    progress: QueueProgress = field(default_factory=QueueProgress)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Exclude all other threads and processes from this queue."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder.with_suffix(".lock")):
            yield

    def open(self, contents: Sequence[str]) -> None:
        """Find out how far an earlier process came with the same contents."""
        self.folder.mkdir(exist_ok=True)
        clear_queues(self.folder.parents[1], MAX_AGE_S)
        try:
            progress = read_json(self.folder / "progress.json", QueueProgress)
        except RunFolderError:
            progress = QueueProgress()
        is_same = progress.contents == tuple(contents) and self._is_complete(progress)
        self.progress = progress if is_same else QueueProgress()

    def _is_complete(self, progress: QueueProgress) -> bool:
        """Whether the files that are still needed have the right length."""
        n, sizes = len(progress.contents), dict[str, int]()
        itemsize = np.dtype(self.dtype).itemsize
        if 0 < self.saved_block <= progress.blocks:
            sizes[f"main-{self.saved_block}"] = n * progress.saved_width * itemsize
        if progress.blocks < len(self.blocks) or self.keeps_last:
            sizes[f"main-{progress.blocks}"] = n * progress.width * itemsize
        for number, widths in enumerate(progress.feature_layers, 1):
            sizes[f"layers-{number}"] = 4 * n * sum(widths)
        paths = {self._path(name): size for name, size in sizes.items()}
        return all(path.is_file() and path.stat().st_size == paths[path] for path in paths)

    def run(self, n: int, inputs: Callable[[], Iterable[Chunk]]) -> Steps[None]:
        """Run every block over at most `n` images; `inputs` returns those of the first block."""
        costs = [max(block.cost, 1) for block in self.blocks]
        began, first = time.perf_counter(), None

        def progress_event(number: int, n_done: int) -> Event:
            """A share of the work counts as a share of an image."""
            nonlocal first
            share = (sum(costs[: number - 1]) + costs[number - 1] * n_done / n) / sum(costs)
            first = share if first is None else first
            speed = (share - first) * n / max(time.perf_counter() - began, 1e-9)
            return Event(
                stage=self.stage,
                kind="step",
                step=int(share * n),
                of=n,
                values={"per_second": round(speed, 2), "block": number, "blocks": len(costs)},
            )

        for number, block in enumerate(self.blocks, 1):
            if number > self.progress.blocks:
                source = inputs() if number == 1 else self._outputs(number - 1, self.progress.width)
                yield from self._run_block(number, block.open(), source, progress_event)
                if number - 1 != self.saved_block:
                    self._path(f"main-{number - 1}").unlink(missing_ok=True)

    def rows(self) -> Iterator[tuple[list[str], list[Floats]]]:
        """Some contents, and their rows: the last output with `keeps_last`, all feature layers."""
        with ExitStack() as stack:

            def read(name: str) -> BinaryIO:
                return stack.enter_context(open(self._path(name), "rb"))

            last = [read(f"main-{len(self.blocks)}")] if self.keeps_last else []
            layers = [read(f"layers-{number}") for number in range(1, len(self.blocks) + 1)]
            for contents in _batches(self.progress.contents):
                rows = [
                    _read(file, len(contents), self.progress.width, self.dtype) for file in last
                ]
                for file, widths in zip(layers, self.progress.feature_layers, strict=True):
                    values = _read(file, len(contents), sum(widths), "float32")
                    rows += np.split(values, np.cumsum(widths)[:-1], axis=1) if widths else []
                yield contents, [row.astype(np.float32, copy=False) for row in rows]

    def saved_rows(self) -> Iterator[tuple[list[str], Floats]]:
        return self._outputs(self.saved_block, self.progress.saved_width)

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run_block(
        self,
        number: int,
        run: RunBlock,
        source: Iterable[Chunk],
        progress_event: Callable[[int, int], Event],
    ) -> Steps[None]:
        """Run one block over everything; its files count once they are complete."""
        contents: list[str] = []
        writes_main = self.keeps_last or number < len(self.blocks)
        width, widths = 0, tuple[int, ...]()
        with (
            open(self._path(f"main-{number}"), "wb") as main,
            open(self._path(f"layers-{number}"), "wb") as feature_layers,
        ):
            for hashes, inputs in source:
                output, layers = padded(run, inputs)
                contents += hashes
                width, widths = output.shape[1], tuple(layer.shape[1] for layer in layers)
                if writes_main:
                    main.write(self._cast(output, number).data)
                if layers:
                    feature_layers.write(np.ascontiguousarray(np.concatenate(layers, axis=1)).data)
                yield progress_event(number, len(contents))
            for file in (main, feature_layers):
                file.flush()
                os.fsync(file.fileno())
        self.progress = QueueProgress(
            blocks=number,
            contents=tuple(contents),
            width=width,
            feature_layers=(*self.progress.feature_layers[: number - 1], widths),
            saved_width=width if number == self.saved_block else self.progress.saved_width,
        )
        write_json(self.folder / "progress.json", self.progress)

    def _outputs(self, number: int, width: int) -> Iterator[tuple[list[str], Floats]]:
        """The output of block `number`, in batches."""
        with open(self._path(f"main-{number}"), "rb") as file:
            for contents in _batches(self.progress.contents):
                values = _read(file, len(contents), width, self.dtype)
                yield contents, values.astype(np.float32, copy=False)

    def _cast(self, values: Floats, number: int) -> Values:
        """In the number format on disk. Raises: TrainingError if that cannot hold them."""
        largest = float(np.abs(values).max(initial=0.0))  # NaN, if any is
        if not largest <= float(np.finfo(self.dtype).max):
            raise TrainingError(
                f"block {number} ({self.blocks[number - 1].name}) gives {largest:.3g}, which "
                f"{self.dtype} cannot hold; use --set training.offload=float32."
            )
        return np.ascontiguousarray(values, self.dtype)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.rows"


def padded(run: RunBlock, inputs: Values) -> tuple[Floats, list[Floats]]:
    """Run a batch padded to `BATCH` rows: a row must not depend on its neighbours."""
    n = len(inputs)
    if n < BATCH:
        blank = np.zeros((BATCH - n, *inputs.shape[1:]), inputs.dtype)
        inputs = np.concatenate([inputs, blank])
    output, layers = run(inputs)
    return output[:n], [layer[:n] for layer in layers]


def _batches(contents: Sequence[str]) -> Iterator[list[str]]:
    for at in range(0, len(contents), BATCH):
        yield list(contents[at : at + BATCH])


def _read(file: BinaryIO, n: int, width: int, dtype: str) -> Values:
    return np.frombuffer(file.read(n * width * np.dtype(dtype).itemsize), dtype).reshape(n, width)


def clear_queues(root: Path, older_s: float = 0.0) -> int:
    """Remove queues untouched for `older_s` and not in use; returns the bytes freed."""
    freed = 0
    for folder in (path for path in root.glob(f"{FOLDER}/*") if path.is_dir()):
        lock = folder.with_suffix(".lock")
        with suppress(OSError):  # another process may have been faster
            is_old = time.time() - folder.stat().st_mtime >= older_s
            if is_old and not (lock.exists() and is_in_use(lock)):
                freed += sum(path.stat().st_size for path in folder.iterdir())
                shutil.rmtree(folder)
                lock.unlink(missing_ok=True)
    return freed


# ---- Feature extraction from a network that is larger than memory.


def queue_for(
    feature_cache: FeatureCache,
    key: CacheFileKey,
    contents: Iterable[str],
    blocks: Sequence[OffloadedBlock],
    dtype: str,
    saved_block: int = 0,
) -> BlockQueue:
    """The queue of these blocks over some contents; an interrupted one is found again."""
    digest = hashlib.sha256(f"{key.digest} {dtype} {here()}".encode())
    for content in contents:
        digest.update(content.encode())
    folder = feature_cache.root / FOLDER / digest.hexdigest()[:32]
    return BlockQueue(folder=folder, blocks=blocks, dtype=dtype, saved_block=saved_block)


# ---- One block by itself: only the layers that it calls are in memory.


class SingleBlock(nn.Module):
    """Block `number` on copies of its layers: from its input to its output and feature layers.

    `layers` are the feature layers; those of other blocks are ignored. The neck belongs to the
    last block. A network in one piece is not copied: its layers release their pages themselves.
    """

    def __init__(self, network: Network, number: int, layers: Sequence[FeatureLayer]) -> None:
        super().__init__()
        self.feature_layers = tuple(layer for layer in layers if layer.block == number)
        self.number = number
        self._scan = plan_scan(network, self.feature_layers) if self.feature_layers else None
        self._step = network.steps.blocks[number - 1]
        has_neck = any(layer.pool == "neck" for layer in self.feature_layers)
        self._neck = network.steps.neck if has_neck else None
        called = [self._step] if self._neck is None else [self._step, self._neck]
        self.backbone = excerpt(network.backbone, called)
        self.eval()

    def forward(self, main: Tensor) -> tuple[Tensor, ...]:
        """The output of the block, (B, …), then (B, d) float32 of each of `feature_layers`."""
        with quick_linear(main):
            main = self._step.run(self.backbone, main)
        if self._scan is None:
            return (main,)
        values = self._scan.pool_layers(self.number, main)
        if self._neck is not None:  # last: a neck may work in place
            vector = self._neck.run(self.backbone, main.clone())
            values |= {layer: vector for layer in self.feature_layers if layer.pool == "neck"}
        return (main, *(values[layer].float() for layer in self.feature_layers))


def excerpt(backbone: nn.Module, steps: Sequence[SegmentStep]) -> nn.Module:
    """Copies of what some steps call in `backbone`, under the same names."""
    modules = [name for step in steps for name in step.modules]
    if "" in modules:
        return backbone
    copied = nn.Module()
    for name in sorted(modules, key=lambda name: name.count(".")):
        owner, last = _owner(copied, name)
        owner.add_module(last, copy.deepcopy(backbone.get_submodule(name)))
    for name in (name for step in steps for name in step.attributes):
        owner, last = _owner(copied, name)
        parent = backbone.get_submodule(name.rpartition(".")[0])
        if not hasattr(owner, last):
            setattr(owner, last, copy.deepcopy(getattr(parent, last)))
    return copied


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds `name`, created if missing, and the name there."""
    *path, last = name.split(".")
    for child in path:
        if child not in module._modules:
            module.add_module(child, nn.Module())
        module = module.get_submodule(child)
    return module, last


# ---- The blocks of a network larger than memory.


def offloaded_blocks(
    network: Network, feature_layers: Sequence[FeatureLayer], upto: int, prep: Inputs
) -> tuple[OffloadedBlock, ...]:
    """Blocks 1 to `upto` for a queue, with their feature layers."""
    return tuple(
        OffloadedBlock(
            name=block.name,
            cost=block.macs,
            open=partial(_load_block, network, number, feature_layers, prep),
        )
        for number, block in enumerate(network.record.blocks[:upto], 1)
    )


def blockwise_engine(blocks: Sequence[OffloadedBlock]) -> Engine:
    """An engine that loads one block after the other into memory for every batch.

    It returns the output of the last block, (n, width), and the feature layers of all.
    """

    def run(images: Pixels) -> list[Floats]:
        rows: Values = images
        layers: list[Floats] = []
        for block in blocks:
            rows, block_layers = padded(block.open(), rows)
            layers += block_layers
        return [rows, *layers]

    return run


def _load_block(
    network: Network, number: int, feature_layers: Sequence[FeatureLayer], prep: Inputs
) -> RunBlock:
    """A block on rows: images (b, H, W, C), or outputs (b, width) of the block before it."""
    blocks = network.record.blocks
    module: nn.Module = SingleBlock(network, number, feature_layers)
    is_laid_out = False

    def run(rows: Values) -> tuple[Floats, list[Floats]]:
        nonlocal module, is_laid_out
        inputs = to_tensor(rows, prep) if number == 1 else to_maps(rows, blocks[number - 2])
        if not is_laid_out:
            module, is_laid_out = lay_out(module, inputs[:2]), True
        with torch.inference_mode():
            main, *layers = module(inputs)
        return to_rows(main, blocks[number - 1]), [layer.numpy() for layer in layers]

    return run


def to_rows(main: Tensor, block: BlockRecord) -> Floats:
    """The output of a block, (b, …), as one row an image; maps in memory order."""
    if block.layout == "NCHW":
        main = main.permute(0, 2, 3, 1)
    rows: Floats = np.ascontiguousarray(main.float().numpy()).reshape(len(main), -1)
    return rows


def to_maps(rows: Values, block: BlockRecord) -> Tensor:
    """The inverse of `to_rows`: (b, width) to (b, …), maps channels_last."""
    values = torch.from_numpy(np.require(rows, requirements="W"))
    if block.layout != "NCHW":
        return values.view(len(rows), *block.shape_out)
    channels, *sides = block.shape_out
    return values.view(len(rows), *sides, channels).permute(0, 3, 1, 2)
