"""Which common recipes change what they froze: weights and BatchNorm statistics, bit for bit."""

from __future__ import annotations

import os
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm
from torch.nn.modules.module import register_module_forward_hook

from bench.loops import CLASSES, N_IMAGES, RECIPES, SIDE, STEPS, Recipe, images, resnet

Counts = dict[str, Any]


def add_options(parser: ArgumentParser) -> None:
    """--only, for one library."""
    parser.add_argument("--only", help="recipes of one library alone")


def measure(args: Namespace) -> dict[str, Any]:
    """Freeze all but the last layer of a network in each way, make three steps, compare bytes."""
    os.environ["KERAS_BACKEND"] = "torch"
    os.environ["HF_HUB_OFFLINE"] = "1"
    jobs: list[tuple[str, str, Callable[[], Counts]]] = [
        (recipe, library, _job(run)) for recipe, library, run in RECIPES
    ]
    jobs.insert(-3, ("trainable = False (ResNet50)", "keras", keras))
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for recipe, library, job in jobs:
            if args.only in (None, library):
                rows.append({"recipe": recipe, "library": library, **_row(library, job)})
    network = f"resnet18, random weights, {SIDE} px, {N_IMAGES} images, {STEPS} steps"
    return {"summary": {"network": network}, "rows": rows}


def _row(library: str, job: Callable[[], Counts]) -> Counts:
    try:
        number = version(library)
        import_module(library)
    except (PackageNotFoundError, ImportError):
        return {"version": "not installed"}
    return {"version": number, **job()}


def _job(run: Recipe) -> Callable[[], Counts]:
    def job() -> Counts:
        network = resnet()
        with torch.random.fork_rng(devices=[]), Held(network) as held:
            torch.manual_seed(0)
            run(network)
        return held.counts(network)

    return job


class Held:
    """What stood in all layers, who held it, and which norms went by the batch in training."""

    def __init__(self, network: nn.Module) -> None:
        self.before = [
            (path, module, name, tensor.detach().clone())
            for path, module in network.named_modules()
            for name, tensor in (*module._parameters.items(), *module._buffers.items())
            if tensor is not None
        ]
        self.by_batch: set[int] = set()

    def __enter__(self) -> Held:
        self.hook = register_module_forward_hook(self._look)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.hook.remove()

    def _look(self, module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Note a norm whose output is not what its remembered statistics give."""
        if "BatchNorm" not in type(module).__name__ or not torch.is_grad_enabled():
            return
        own = (module.running_mean, module.running_var, module.weight, module.bias)
        fixed = batch_norm(inputs[0], *own, training=False, eps=module.eps)
        if not torch.allclose(fixed, output, rtol=1e-4, atol=1e-5):
            self.by_batch.add(id(module))

    def counts(self, network: nn.Module) -> Counts:
        """Tensors of all layers but the last whose bytes changed.

        One is looked up by its name, or, where a wrapper took its layer in, in that layer.
        """
        state, inside = network.state_dict(), set(map(id, network.modules()))
        total = {"weights": 0, "statistics": 0}
        moved = dict(total)
        for path, module, name, old in self.before:
            if path == "fc":
                continue
            kind = "statistics" if name in module._buffers else "weights"
            new = state.get(f"{path}.{name}")
            if new is None and id(module) in inside:
                new = getattr(module, name)
            total[kind] += 1  # timm's frozen norms keep no count of batches: none to move
            moved[kind] += new is not None and _bytes(new) != _bytes(old)
        fates = _counts(moved, total, self._is_trained(state))
        return {**fates, "norms_by_batch": len(self.by_batch)}

    def _is_trained(self, state: dict[str, Tensor]) -> bool:
        """Whether the output moved: its layer, or the copy that PEFT trains in its place."""
        old = next(t for path, _, name, t in self.before if (path, name) == ("fc", "weight"))
        now = [t for name, t in state.items() if name.startswith("fc.") and t.shape == old.shape]
        return any(_bytes(tensor) != _bytes(old) for tensor in now)


def _counts(moved: dict[str, int], total: dict[str, int], is_trained: bool) -> Counts:
    return {
        "frozen_weights_moved": moved["weights"],
        "frozen_statistics_moved": moved["statistics"],
        "frozen_weights": total["weights"],
        "frozen_statistics": total["statistics"],
        "output_trained": is_trained,  # that the loop ran at all
    }


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().numpy().tobytes()


def keras() -> Counts:
    """Keras' guide: `trainable = False`, on its own ResNet50 (it has no ResNet18)."""
    import keras as library

    library.utils.set_random_seed(0)
    base = library.applications.ResNet50(
        weights=None, include_top=False, pooling="avg", input_shape=(SIDE, SIDE, 3)
    )
    base.trainable = False
    model = library.Sequential([base, library.layers.Dense(CLASSES)])
    loss = library.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(library.optimizers.AdamW(1e-3), loss)
    before = {w.path: library.ops.convert_to_numpy(w.value).tobytes() for w in model.weights}
    pictures, labels = images()
    model.fit(
        pictures.permute(0, 2, 3, 1).numpy(),
        labels.numpy(),
        batch_size=N_IMAGES,
        epochs=STEPS,
        verbose=0,
    )
    after = {w.path: library.ops.convert_to_numpy(w.value).tobytes() for w in model.weights}
    total = {"weights": 0, "statistics": 0}
    moved = dict(total)
    for path in (weight.path for weight in base.weights):
        kind = "statistics" if "moving_" in path else "weights"
        total[kind] += 1
        moved[kind] += after[path] != before[path]
    others = before.keys() - {weight.path for weight in base.weights}
    is_trained = any(after[path] != before[path] for path in others)
    return _counts(moved, total, is_trained) | {"norms_by_batch": None}
