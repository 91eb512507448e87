"""Training speed: the whole network, cached features, and HF Trainer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from bench.sets import root

SET = "sign_digits"
IMAGES, BATCH = 640, 32  # images seen, and of one update
ROUNDS = 3  # pairs; the fastest of each counts


def add_options(parser: ArgumentParser) -> None:
    """--alone: the part of the trainer, measured in a process of its own."""
    parser.add_argument("--alone", choices=("trainer",), default=None)


def measure(args: Namespace) -> dict[str, Any]:
    """Run the three in turn, several times, and keep the fastest of each."""
    if args.alone:
        print(json.dumps(_trainer(root(args) / SET)))
        sys.exit(0)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as cache:
        for number in range(ROUNDS):
            rows.append({"round": number, **_round(args, cache)})
            print(rows[-1], file=sys.stderr, flush=True)
    best = {name: max(row[name] for row in rows) for name in rows[0] if name != "round"}
    summary = {
        **{f"{name} images/s": value for name, value in best.items()},
        "live full over HF Trainer": round(best["live_full"] / best["hf_trainer"], 2),
        "cached over live": round(best["cached"] / best["live_full"], 2),
    }
    return {"summary": summary, "rows": rows}


def _round(args: Namespace, cache: str) -> dict[str, float]:
    data = root(args) / SET
    # Parts 1 to 12 of EfficientNet-Lite0 end at 14 x 14 positions.
    return {
        "hf_trainer": _other(args),
        "live_full": _ours(data, "full", cache),
        "cached": _ours(data, "last:6", cache),
    }


def _n_train(data: Path) -> int:
    """Training images of a set."""
    return sum(1 for _ in (data / "train").glob("*/*"))


def _ours(data: Path, strategy: str, cache: str) -> float:
    """Images a second over all updates of a run, from the times of its events."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "run"
        command = [
            sys.executable,
            "-m",
            "warmstart",
            "fit",
            str(data),
            "--strategy",
            strategy,
            "--budget",
            "fast",
            "--quiet",
            "--out",
            str(out),
            "--set",
            f"training.epochs={IMAGES / _n_train(data):g}",
            "--set",
            f"training.batch_size={BATCH}",
        ]
        env = os.environ | {"WARMSTART_CACHE": cache}
        subprocess.run(command, env=env, check=True, capture_output=True)
        lines = (out / "progress.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    times = [
        event["t"]
        for event in events
        if event["stage"] == "fine_tune"
        and event["kind"] == "step"
        and event["values"].get("job") == 2
    ]
    # The last training holds nothing out, so that no look comes between its updates.
    return round(BATCH * (len(times) - 1) / (times[-1] - times[0]), 1)


def _other(args: Namespace) -> float:
    command = [sys.executable, "-m", "bench", "run", "train_speed", "--alone", "trainer"]
    if args.data:
        command += ["--data", args.data]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1]))


def _trainer(data: Path) -> float:
    """The same network, images, batch and updates under transformers.Trainer as it comes."""
    import torch
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2
    from transformers import Trainer, TrainingArguments

    from warmstart.network.load import load
    from warmstart.records.inputs import pictures

    base = load("lite0")
    prep = pictures(base.record.preprocessing)
    network: Any = base.module.train().requires_grad_(True)
    classes = len(list((data / "train").iterdir()))
    network.reset_classifier(classes)
    augment = v2.Compose(
        [
            v2.ToImage(),
            v2.RandomResizedCrop(prep.size, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(prep.mean, prep.std),
        ]
    )
    images = ImageFolder(data / "train", transform=augment)

    class Classifier(torch.nn.Module):
        """Logits and a loss in the form that the trainer expects."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixels: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.network(pixels)
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    def collate(pairs: list[Any]) -> dict[str, torch.Tensor]:
        return {
            "pixels": torch.stack([image for image, _ in pairs]),
            "labels": torch.tensor([label for _, label in pairs]),
        }

    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            out,
            per_device_train_batch_size=BATCH,
            max_steps=IMAGES // BATCH,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            remove_unused_columns=False,
            use_cpu=True,
            dataloader_num_workers=0,
            disable_tqdm=True,
            learning_rate=3e-4,
        )
        trainer = Trainer(Classifier(), arguments, train_dataset=images, data_collator=collate)
        began = time.perf_counter()
        trainer.train()
        return round(IMAGES / (time.perf_counter() - began), 1)
