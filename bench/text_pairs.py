"""Contrastive fine-tuning on all pairs of a few texts at once, after SetFit.

A draw of 8 a class passes whole; the cosine of each two texts is drawn to 1 where they are of one
class and to 0 where they are not, both kinds weighing alike. SetFit makes the same pairs one by one
(Tunstall et al. 2022, "Efficient Few-Shot Learning Without Prompts", §3). It says what a training
for few texts has to reach: `warmstart fit` tunes the upper layers alone, and needs fewer updates.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn.functional import normalize

import warmstart
from bench import results
from bench.text import FIRST, draw, read
from warmstart.features.batches import sub_batches, to_tensor
from warmstart.modalities.text import token_numbers
from warmstart.network.load import load
from warmstart.network.partition import Network, cut

LINES = results.FOLDER / "text_pairs.jsonl"
LOOKS = (4, 8)  # updates after which it is looked at


def add_options(parser: ArgumentParser) -> None:
    """--sets, --draws, --rate."""
    parser.add_argument("--sets", nargs="+", default=["trec6", "sst2"])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--rate", type=float, default=3e-4)


def measure(args: Namespace) -> dict[str, Any]:
    """Test accuracy of logistic regression on the pooled output before and after so many updates.

    Seconds are the processor's, of the updates alone; draws are those of the bench `text`, kept
    line by line.
    """
    root = args.data or Path(warmstart.__file__).parents[3] / "shared" / "data" / "text"
    stored = results.lines(LINES)
    done = {(row["set"], row["seed"]) for row in stored}
    for name in args.sets:
        for seed in range(FIRST, FIRST + args.draws):
            if (name, seed) not in done:
                stored += _on_draw(root / name, name, seed, args.rate)
                LINES.write_text("".join(json.dumps(row) + "\n" for row in stored))
                print(stored[-1], file=sys.stderr, flush=True)
    steps = sorted({(row["set"], row["steps"]) for row in stored})
    return {"rows": [_mean(stored, name, n_steps) for name, n_steps in steps]}


def _mean(stored: list[dict[str, Any]], name: str, n_steps: int) -> dict[str, Any]:
    rows = [row for row in stored if (row["set"], row["steps"]) == (name, n_steps)]
    means = {key: float(np.mean([row[key] for row in rows])) for key in ("accuracy", "seconds")}
    return {"set": name, "steps": n_steps, "draws": len(rows), **means}


def _on_draw(folder: Path, name: str, seed: int, rate: float) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    train, test = (read(folder / f"{block}.csv") for block in ("train", "test"))
    rows = draw(train[1], 8, seed)
    base = load("minilm")
    inputs: Any = base.record.preprocessing
    network = cut(copy.deepcopy(base.module), inputs)

    def encoded(texts: list[str]) -> Any:
        return np.stack([token_numbers(text, inputs) for text in texts])

    learn, spec = encoded([train[0][row] for row in rows]), encoded(test[0])
    labels = train[1][rows]
    optimizer = _layers(network, rate)
    output, spent = [], 0.0
    for step in range(LOOKS[-1] + 1):
        if step in (0, *LOOKS):
            result = [_pooled(network, block, inputs).numpy() for block in (learn, spec)]
            plain = LogisticRegression(max_iter=2000).fit(result[0], labels)
            hits = float(plain.score(result[1], test[1]))
            output.append(
                {"set": name, "seed": seed, "steps": step, "accuracy": hits, "seconds": spent}
            )
        began = time.process_time()
        _update(network, optimizer, learn, labels, inputs, seed + step)
        spent += time.process_time() - began
    return output


def _layers(network: Network, rate: float) -> torch.optim.Optimizer:
    """All layers move; the embeddings stay."""
    moving: list[nn.Parameter] = []
    for step in network.steps.blocks[1:]:
        for module in step.modules:
            moving += network.backbone.get_submodule(module).parameters()
    for parameter in moving:
        parameter.requires_grad_(True)
    return torch.optim.AdamW(moving, lr=rate, weight_decay=0.01)


def _update(
    network: Network,
    optimizer: torch.optim.Optimizer,
    rows: Any,
    labels: Any,
    inputs: Any,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    network.backbone.train()
    vectors = _vectors(network, rows, inputs)
    same = torch.from_numpy(labels[:, None] == labels[None])
    errors = (vectors @ vectors.T - same.float()) ** 2
    alike = same & ~torch.eye(len(labels), dtype=torch.bool)
    loss = errors[alike].mean() + errors[~same].mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _pooled(network: Network, rows: Any, inputs: Any) -> Tensor:
    network.backbone.eval()
    with torch.inference_mode():
        return _vectors(network, rows, inputs)


def _vectors(network: Network, rows: Any, inputs: Any) -> Tensor:
    """Pooled outputs of length 1, (n, C): texts of one length pass together."""
    order = sub_batches(rows, inputs, 32)
    result = torch.cat([network.features(to_tensor(rows[some], inputs)) for some in order])
    return normalize(result[torch.from_numpy(np.argsort(np.concatenate(order)))])
