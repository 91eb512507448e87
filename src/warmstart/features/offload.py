"""A pipeline over time: one part after the other runs over all images, and is then let go.

What a part gives for every image lies on disk until the next part has taken it, so that a
network larger than memory needs no more of it than its largest part. Two such files stand at
a time. A part that is done is not done again: the folder says how far it came.
"""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from warmstart.distributed import here
from warmstart.errors import DataError, RunFolderError, TrainingError
from warmstart.events import Event, Stage, Steps
from warmstart.features.batches import to_tensor
from warmstart.features.cache import FeatureCache
from warmstart.features.cache_file import CacheFile, exclusive, is_in_use
from warmstart.features.cache_key import BATCH, CacheFileKey
from warmstart.features.engine import Engine, Pixels, labelled
from warmstart.features.extract import ExampleSource, ExtractedRows, Prefetch, Vanished
from warmstart.network.fast_linear import quick_linear
from warmstart.network.feature_layers import plan_scan
from warmstart.network.partition import Network
from warmstart.network.segments import SegmentStep
from warmstart.records.data import Example
from warmstart.records.inputs import Inputs
from warmstart.records.network import BlockRecord, FeatureLayer
from warmstart.records.run_folder import read_json, write_json

Values = NDArray[Any]
Floats = NDArray[np.float32]
Chunk = tuple[Sequence[str], Values]  # contents, and an input for each
# Inputs (b, …) to what the part gives, (b, width), and its taps, (b, d) each.
Pass = Callable[[Values], tuple[Floats, list[Floats]]]
BELTS = "belts"  # in the cache folder
KEPT_S = 7 * 24 * 3600  # a belt that nobody went on with for so long is thrown away


@dataclass(frozen=True, slots=True, kw_only=True)
class OffloadedBlock:
    """One part: its name, its multiply-adds an image, and how it is brought into memory."""

    name: str
    cost: int
    open: Callable[[], Pass]


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How far a belt came: parts, the contents that they passed, widths of what they gave."""

    blocks: int = 0
    contents: tuple[str, ...] = ()
    main: int = 0  # of the last of them
    kept: int = 0  # of the one whose output stays
    feature_layers: tuple[tuple[int, ...], ...] = ()


@dataclass(kw_only=True)
class BlockQueue:
    """Links over some images. `dtype`: how what lies between them is kept on disk.

    `keeps_last`: whether what the last link gives is wanted, not its taps alone. `kept`: an
    earlier link whose output is wanted as well; 0 for none.
    """

    folder: Path
    links: Sequence[OffloadedBlock]
    dtype: str
    keeps_last: bool = False
    kept: int = 0
    stage: Stage = "features"
    done: Done = field(default_factory=Done)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Alone with this belt, among all threads and processes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder.with_suffix(".lock")):
            yield

    def open(self, wanted: Sequence[str]) -> None:
        """Find out how far an earlier process came with the same contents."""
        self.folder.mkdir(exist_ok=True)
        clear_belts(self.folder.parents[1], KEPT_S)
        try:
            found = read_json(self.folder / "done.json", Done)
        except RunFolderError:
            found = Done()
        is_same = found.contents == tuple(wanted) and self._is_whole(found)
        self.done = found if is_same else Done()

    def _is_whole(self, found: Done) -> bool:
        """Whether the files that are still needed have the length that they should have."""
        n, sizes = len(found.contents), dict[str, int]()
        wide = np.dtype(self.dtype).itemsize
        if 0 < self.kept <= found.blocks:
            sizes[f"main-{self.kept}"] = n * found.kept * wide
        if found.blocks < len(self.links) or self.keeps_last:
            sizes[f"main-{found.blocks}"] = n * found.main * wide
        sizes |= {
            f"taps-{k}": 4 * n * sum(widths) for k, widths in enumerate(found.feature_layers, 1)
        }
        paths = {self._path(name): size for name, size in sizes.items()}
        return all(path.is_file() and path.stat().st_size == paths[path] for path in paths)

    def run(self, n: int, feed: Callable[[], Iterable[Chunk]]) -> Steps[None]:
        """Pass everything through every link; `feed` gives the first one's inputs, n at most."""
        speed = _Speed(self, n)
        for number, link in enumerate(self.links, 1):
            if number > self.done.blocks:
                source = feed() if number == 1 else self._between(number - 1)
                yield from self._pass(number, link.open(), source, speed)
                if number - 1 != self.kept:
                    self._path(f"main-{number - 1}").unlink(missing_ok=True)
            speed.done += link.cost

    def rows(self) -> Iterator[tuple[list[str], list[Floats]]]:
        """Some contents, and all that was taken of them: the last output where it is kept."""
        with ExitStack() as stack:

            def read(name: str) -> BinaryIO:
                return stack.enter_context(open(self._path(name), "rb"))

            last = [read(f"main-{len(self.links)}")] if self.keeps_last else []
            taken = [read(f"taps-{number}") for number in range(1, len(self.links) + 1)]
            for contents in _parted(self.done.contents):
                rows = [_read(file, len(contents), self.done.main, self.dtype) for file in last]
                for file, widths in zip(taken, self.done.feature_layers, strict=True):
                    values = _read(file, len(contents), sum(widths), "float32")
                    rows += np.split(values, np.cumsum(widths)[:-1], axis=1) if widths else []
                yield contents, [row.astype(np.float32, copy=False) for row in rows]

    def kept_rows(self) -> Iterator[tuple[list[str], Floats]]:
        """Some contents, and what the link that was to be kept gave for them."""
        with open(self._path(f"main-{self.kept}"), "rb") as file:
            for contents in _parted(self.done.contents):
                rows = _read(file, len(contents), self.done.kept, self.dtype)
                yield contents, rows.astype(np.float32, copy=False)

    def clear(self) -> None:
        """Throw away what lies on disk."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _pass(self, number: int, run: Pass, source: Iterable[Chunk], speed: _Speed) -> Steps[None]:
        """One link over everything; its files count once they are whole."""
        contents: list[str] = []
        keeps = self.keeps_last or number < len(self.links)
        width, widths = 0, tuple[int, ...]()
        with (
            open(self._path(f"main-{number}"), "wb") as main,
            open(self._path(f"taps-{number}"), "wb") as feature_layers,
        ):
            for some, inputs in source:
                given, found = padded(run, inputs)
                contents += some
                width, widths = given.shape[1], tuple(layer.shape[1] for layer in found)
                if keeps:
                    main.write(self._kept(given, number).data)
                if found:
                    feature_layers.write(np.ascontiguousarray(np.concatenate(found, axis=1)).data)
                yield speed.event(number, len(contents))
            for file in (main, feature_layers):
                file.flush()
                os.fsync(file.fileno())
        before = self.done.feature_layers[: number - 1]
        kept = width if number == self.kept else self.done.kept
        self.done = Done(
            blocks=number,
            contents=tuple(contents),
            main=width,
            feature_layers=(*before, widths),
            kept=kept,
        )
        write_json(self.folder / "done.json", self.done)

    def _between(self, number: int) -> Iterator[Chunk]:
        """What link `number` gave, as the next one takes it."""
        with open(self._path(f"main-{number}"), "rb") as file:
            for contents in _parted(self.done.contents):
                values = _read(file, len(contents), self.done.main, self.dtype)
                yield contents, values.astype(np.float32, copy=False)

    def _kept(self, values: Floats, number: int) -> Values:
        """In the belt's number format. Raises: TrainingError where that cannot hold them."""
        most = float(np.abs(values).max(initial=0.0))  # NaN, if any is
        if not most <= float(np.finfo(self.dtype).max):
            raise TrainingError(
                f"part {number} ({self.links[number - 1].name}) gives {most:.3g}, which "
                f"{self.dtype} cannot hold; use --set training.offload=float32."
            )
        return np.ascontiguousarray(values, self.dtype)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.rows"


@dataclass
class _Speed:
    """Images a second, a part of the work counting as a part of an image."""

    block_queue: BlockQueue
    n: int
    done: int = 0
    began: float = field(default_factory=time.perf_counter)
    first: float | None = None

    def event(self, number: int, passed: int) -> Event:
        """After so many images have passed link `number`."""
        costs = [max(link.cost, 1) for link in self.block_queue.links]
        share = (sum(costs[: number - 1]) + costs[number - 1] * passed / self.n) / sum(costs)
        begun = self.first = share if self.first is None else self.first
        seconds = max(time.perf_counter() - self.began, 1e-9)
        speed = (share - begun) * self.n / seconds
        return Event(
            stage=self.block_queue.stage,
            kind="step",
            step=int(share * self.n),
            of=self.n,
            values={"per_second": round(speed, 2), "block": number, "blocks": len(costs)},
        )


def padded(run: Pass, inputs: Values) -> tuple[Floats, list[Floats]]:
    """A batch of the size that all have: a row must not depend on its neighbours."""
    n = len(inputs)
    if n < BATCH:
        blank = np.zeros((BATCH - n, *inputs.shape[1:]), inputs.dtype)
        inputs = np.concatenate([inputs, blank])
    given, found = run(inputs)
    return given[:n], [layer[:n] for layer in found]


def _parted(contents: Sequence[str]) -> Iterator[list[str]]:
    for at in range(0, len(contents), BATCH):
        yield list(contents[at : at + BATCH])


def _read(file: BinaryIO, n: int, width: int, dtype: str) -> Values:
    return np.frombuffer(file.read(n * width * np.dtype(dtype).itemsize), dtype).reshape(n, width)


def clear_belts(root: Path, older_s: float = 0.0) -> int:
    """Throw away what lies on belts that nobody touched for so long; returns the bytes freed.

    One that is at work is left alone.
    """
    freed = 0
    for folder in (path for path in root.glob(f"{BELTS}/*") if path.is_dir()):
        lock = folder.with_suffix(".lock")
        with suppress(OSError):  # another process may have been quicker
            is_old = time.time() - folder.stat().st_mtime >= older_s
            if is_old and not (lock.exists() and is_in_use(lock)):
                freed += sum(path.stat().st_size for path in folder.iterdir())
                shutil.rmtree(folder)
                lock.unlink(missing_ok=True)
    return freed


# ---- A look at a network that is larger than memory: see `block_queue`.


@dataclass(frozen=True, slots=True)
class KeptRows:
    """What link number `link` gives is wanted later, and stays on this shelf."""

    link: int
    cache_file: CacheFile


def belt_of(
    store: FeatureCache,
    key: CacheFileKey,
    contents: Iterable[str],
    links: Sequence[OffloadedBlock],
    dtype: str,
) -> BlockQueue:
    """The belt of these links over some contents: an interrupted one is found again."""
    told = hashlib.sha256(f"{key.digest} {dtype} {here()}".encode())
    for content in contents:
        told.update(content.encode())
    folder = store.root / BELTS / told.hexdigest()[:32]
    return BlockQueue(folder=folder, links=links, dtype=dtype)


def extract_streamed(
    examples: Sequence[Example],
    source: ExampleSource,
    links: Sequence[OffloadedBlock],
    dtype: str,
    kept: KeptRows | None = None,
) -> Steps[ExtractedRows]:
    """The same as `extract`, part by part over all that is to do: the first decodes it once.

    What one of the parts gives may be `kept` beside the taps. Interrupted, it goes on after the
    last part that was done.
    Raises: TrainingError where half precision cannot hold what a part gives; OSError where the
    disk is full.
    """
    known, todo = source.store.quarantined(source.decoder), source.todo
    begin: dict[str, float | int | str] = {"total": len(examples), "missing": len(todo)}
    yield Event(stage="features", kind="begin", of=len(todo), values=begin)
    gate = _Gate(source)
    if todo:
        made = belt_of(
            source.store, source.cache_file.key, (e.sha256 for e in examples), links, dtype
        )
        block_queue = replace(made, kept=kept.link if kept is not None else 0)
        with block_queue.held():
            block_queue.open([e.sha256 for e in todo])
            try:
                yield from block_queue.run(len(todo), gate.feed)
            finally:
                gate.quarantine()
            if kept is not None:
                for contents, given in block_queue.kept_rows():
                    kept.cache_file.append(contents, [given])
            for contents, rows in block_queue.rows():
                source.cache_file.append(contents, rows)
            block_queue.clear()
    reasons = known | gate.unreadable | gate.vanished
    lost = {e.id: reasons[e.sha256] for e in examples if e.sha256 in reasons}
    counts: dict[str, float | int | str] = {
        "passed": gate.passed,
        "decoded": gate.decoded,
        "unreadable": len(lost),
    }
    yield Event(stage="features", kind="end", step=len(todo), of=len(todo), values=counts)
    return ExtractedRows(
        cache_file=source.cache_file, unreadable=lost, passed=gate.passed, decoded=gate.decoded
    )


class _Gate:
    """Decodes what goes onto the belt, in batches; notes what cannot be read."""

    def __init__(self, source: ExampleSource) -> None:
        self._source = source
        self.passed = self.decoded = 0
        self.unreadable: dict[str, str] = {}  # sha256 to reason
        self.vanished: dict[str, str] = {}  # the same, but not the bytes' fault

    def feed(self) -> Iterator[Chunk]:
        """Contents and their pixels, 32 at a time."""
        prefetch = Prefetch(self._source.todo, self._source.decode)
        hashes: list[str] = []
        batch: list[Pixels] = []
        try:
            for example, pixels in prefetch:
                self.decoded += 1
                if isinstance(pixels, DataError):
                    gone = isinstance(pixels, Vanished)
                    (self.vanished if gone else self.unreadable)[example.sha256] = str(pixels)
                    continue
                hashes.append(example.sha256)
                batch.append(pixels)
                if len(batch) == BATCH:
                    self.passed += BATCH
                    yield hashes, np.stack(batch)
                    hashes, batch = [], []
            if batch:
                self.passed += len(batch)
                yield hashes, np.stack(batch)
        finally:
            prefetch.close()

    def quarantine(self) -> None:
        """Remember what cannot be decoded."""
        for sha256, reason in self.unreadable.items():
            self._source.store.quarantine(self._source.decoder, sha256, reason)


# ---- One part of a cut network by itself: what it calls is in memory, and nothing else.


class SingleBlock(nn.Module):
    """Part `number` on copies of the layers that it calls: its input to its output and its taps.

    `wanted` are the taps to take; those of other parts are left out. The neck belongs to the
    last part. A network in one piece is not copied: its layers let go of their pages by
    themselves.
    """

    def __init__(self, network: Network, number: int, wanted: Sequence[FeatureLayer]) -> None:
        super().__init__()
        own = [layer for layer in wanted if layer.block == number]
        self.feature_layers = tuple(own)
        self.number = number
        self._scan = plan_scan(network, own) if own else None
        self._step = network.steps.blocks[number - 1]
        self._neck = network.steps.neck if any(layer.pool == "neck" for layer in own) else None
        called = [self._step] if self._neck is None else [self._step, self._neck]
        self.backbone = excerpt(network.backbone, called)
        self.eval()

    def forward(self, main: Tensor) -> tuple[Tensor, ...]:
        """What the part gives, (B, …), then (B, d) float32 of each of `feature_layers`."""
        with quick_linear(main):
            main = self._step.run(self.backbone, main)
        if self._scan is None:
            return (main,)
        found = self._scan.pool_layers(self.number, main)
        if self._neck is not None:  # last: a neck may work in place
            vector = self._neck.run(self.backbone, main.clone())
            found |= {layer: vector for layer in self.feature_layers if layer.pool == "neck"}
        return (main, *(found[layer].float() for layer in self.feature_layers))


def excerpt(backbone: nn.Module, steps: Sequence[SegmentStep]) -> nn.Module:
    """A module with copies of what some steps look up in `backbone`, under the same names.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    >>> step = SegmentStep("1", lambda network, x: network[1](x), ("1",), ())
    >>> [name for name, _ in excerpt(net, [step]).named_parameters()]
    ['1.weight', '1.bias']
    """
    modules = [name for step in steps for name in step.modules]
    if "" in modules:
        return backbone
    made = nn.Module()
    for name in sorted(modules, key=lambda name: name.count(".")):
        owner, last = _owner(made, name)
        owner.add_module(last, copy.deepcopy(backbone.get_submodule(name)))
    for name in (name for step in steps for name in step.attributes):
        owner, last = _owner(made, name)
        parent = backbone.get_submodule(name.rpartition(".")[0])
        if not hasattr(owner, last):
            setattr(owner, last, copy.deepcopy(getattr(parent, last)))
    return made


def _owner(made: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds `name`, made where it is missing, and the name there."""
    *path, last = name.split(".")
    for piece in path:
        if piece not in made._modules:
            made.add_module(piece, nn.Module())
        made = made.get_submodule(piece)
    return made, last


# ---- A network larger than memory: when it is streamed from its file, and how a part is run.


def links(
    network: Network, feature_layers: Sequence[FeatureLayer], upto: int, prep: Inputs
) -> tuple[OffloadedBlock, ...]:
    """Parts 1 to `upto` as links of a belt, with the taps that are taken on the way."""
    return tuple(
        OffloadedBlock(
            name=block.name,
            cost=block.macs,
            open=partial(_open, network, number, feature_layers, prep),
        )
        for number, block in enumerate(network.record.blocks[:upto], 1)
    )


def one_by_one(blocks: Sequence[OffloadedBlock]) -> Engine:
    """An engine that brings one part after the other into memory for every batch.

    Gives the last part's output, (n, width), and the taps of all.
    """

    def run(images: Pixels) -> list[Floats]:
        rows: Values = images
        found: list[Floats] = []
        for block in blocks:
            rows, feature_layers = padded(block.open(), rows)
            found += feature_layers
        return [rows, *found]

    return run


def _open(
    network: Network, number: int, feature_layers: Sequence[FeatureLayer], prep: Inputs
) -> Callable[[Values], tuple[Floats, list[Floats]]]:
    blocks = network.record.blocks
    before = None if number == 1 else blocks[number - 2]
    return _Pass(SingleBlock(network, number, feature_layers), before, blocks[number - 1], prep)


@dataclass
class _Pass:
    """A part on rows: what the part before it gave, or images."""

    lone: torch.nn.Module
    before: BlockRecord | None
    block: BlockRecord
    prep: Inputs
    _is_ready: bool = field(default=False)

    def __call__(self, rows: Values) -> tuple[Floats, list[Floats]]:
        """Rows (b, width), or images (b, H, W, C), to what the part gives and its taps."""
        inputs = to_tensor(rows, self.prep) if self.before is None else as_state(rows, self.before)
        if not self._is_ready:
            self.lone, self._is_ready = labelled(self.lone, inputs[:2]), True
        with torch.inference_mode():
            main, *feature_layers = self.lone(inputs)
        return as_rows(main, self.block), [layer.numpy() for layer in feature_layers]


def as_rows(main: Tensor, block: BlockRecord) -> Floats:
    """What a part gave, (b, …), one row an image; maps in the order they have in memory."""
    if block.layout == "NCHW":
        main = main.permute(0, 2, 3, 1)
    rows: Floats = np.ascontiguousarray(main.float().numpy()).reshape(len(main), -1)
    return rows


def as_state(rows: Values, block: BlockRecord) -> Tensor:
    """The same back: (b, width) to (b, …), maps channels_last."""
    values = torch.from_numpy(np.require(rows, requirements="W"))
    if block.layout != "NCHW":
        return values.view(len(rows), *block.shape_out)
    channels, *sides = block.shape_out
    return values.view(len(rows), *sides, channels).permute(0, 3, 1, 2)
