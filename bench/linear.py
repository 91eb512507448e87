"""Linear layers: oneDNN beside torch's default."""

from __future__ import annotations

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from warmstart.network import feature_layers

ROWS = (16, 64, 256, 1024)  # tokens that pass together
SHAPES = ((384, 384), (384, 1536), (1536, 384), (768, 3072))  # in and out, as in transformers


def add_options(parser: ArgumentParser) -> None:
    """--threads, --repeats."""
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)


def measure(args: Namespace) -> dict[str, Any]:
    """Billions of multiply-adds a processor second, forwards and with both gradients."""
    torch.set_num_threads(args.threads)
    rows = []
    for n in ROWS:
        for shape in SHAPES:
            layer, inputs = nn.Linear(*shape), torch.randn(n, shape[0], requires_grad=True)
            work = n * shape[0] * shape[1] / 1e9
            row: dict[str, Any] = {"rows": n, "in": shape[0], "out": shape[1]}
            for name, is_quick in (("torch", False), ("oneDNN", True)):
                forward = _seconds(_pass(layer, inputs.detach(), is_quick, False), args.repeats)
                both = _seconds(_pass(layer, inputs, is_quick, True), args.repeats)
                row |= {
                    f"{name}, forwards": round(work / forward, 1),
                    f"{name}, and back": round(3 * work / both, 1),
                }
            rows.append(row)
    return {"threads": args.threads, "summary": _summary(rows), "rows": rows}


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {"chosen on this machine": feature_layers._is_faster()}
    for kind in ("forwards", "and back"):
        ratios = [row[f"oneDNN, {kind}"] / row[f"torch, {kind}"] for row in rows]
        result[f"times as fast, {kind}"] = round(float(np.median(ratios)), 2)
    return result


def _pass(layer: nn.Linear, x: Tensor, is_quick: bool, is_back: bool) -> Callable[[], None]:
    grad = torch.ones(len(x), layer.out_features)

    def run() -> None:
        layer.zero_grad()
        with (
            torch.set_grad_enabled(is_back),
            feature_layers._OneDnnMode() if is_quick else nullcontext(),
        ):
            result = layer(x)
        if is_back:
            result.backward(grad)

    return run


def _seconds(run: Callable[[], None], repeats: int) -> float:
    for _ in range(3):
        run()
    began = time.process_time()
    for _ in range(repeats):
        run()
    return (time.process_time() - began) / repeats
