"""Images a second of each engine of feature extraction, set-up included, on noise."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from argparse import ArgumentParser, Namespace
from importlib.metadata import version
from typing import Any

from warmstart.features.cache_key import installed_engines

# A process of its own for each engine, so that importing it counts and none warms another.
ALONE = """
import json, sys, time
from warmstart.cli.main import prepare
prepare()
import numpy as np
from warmstart.features.engine import make_engine, noise
from warmstart.features.engine_choice import engine_work
from warmstart.features.machine import n_threads
from warmstart.features.machine import keep_freed_memory
from warmstart.network.load import load
from warmstart.network.finished_run import partition_base
from warmstart.network.feature_layers import FeatureExtractor, feature_layers
engine, base, counts = sys.argv[1], load(sys.argv[2]), [int(n) for n in sys.argv[3:]]
network, prep = partition_base(base), base.record.preprocessing
extractor = FeatureExtractor(network, feature_layers(network.record))
images, passed, batches, seconds, worked_s = noise(prep, 256), 0, [], {}, {}
freed = keep_freed_memory()  # as in a run
freed.__enter__()
began, worked = time.perf_counter(), time.process_time()
run = make_engine(engine, extractor, prep, n_threads())
setup, setup_cpu = time.perf_counter() - began, time.process_time() - worked
for count in counts:
    while passed < count:
        at = time.perf_counter(), time.process_time()
        run(images[passed % 256 : passed % 256 + min(32, count - passed)])
        batches.append((time.perf_counter() - at[0], time.process_time() - at[1]))
        passed += min(32, count - passed)
    passed = -(-passed // 32) * 32  # the next images begin another batch
    seconds[count] = time.perf_counter() - began
    worked_s[count] = time.process_time() - worked
macs = engine_work(network.record, prep, len(extractor.scan.widths)).macs
best = min(wall for wall, _ in batches), min(cpu for _, cpu in batches)
print(json.dumps({"setup": setup, "setup cpu": setup_cpu, "batch": best[0], "batch cpu": best[1],
                  "seconds": seconds, "worked": worked_s, "macs": macs}))
"""


def add_options(parser: ArgumentParser) -> None:
    """--base, --counts, --repeats."""
    parser.add_argument("--base", default="lite0")
    parser.add_argument("--counts", type=int, nargs="+", default=[250, 1000, 4000])
    parser.add_argument("--repeats", type=int, default=2)


def measure(args: Namespace) -> dict[str, Any]:
    """The quickest of some repeats, engines in turn.

    A busy machine is never faster than it is; what it works, in processor seconds, changes
    less. ONNX Runtime's threads wait actively for each other, and that counts as work.
    """
    counts = sorted(args.counts)
    output: dict[str, list[dict[str, Any]]] = {}
    busy = os.getloadavg()[0]
    for _ in range(args.repeats):
        for engine in installed_engines():
            output.setdefault(engine, []).append(_alone(engine, args.base, counts))
            print(engine, output[engine][-1], flush=True)
    rows: list[dict[str, Any]] = []
    for name, result in output.items():
        setup, batch = (min(one[what] for one in result) for what in ("setup", "batch"))
        for count in counts:
            seconds, worked = (
                min(one[what][str(count)] for one in result) for what in ("seconds", "worked")
            )
            rows.append(
                {
                    "engine": name,
                    "images": count,
                    "seconds": seconds,
                    "per second": count / seconds,
                    "setup s": setup,
                    "fastest batch, per second": 32 / batch,
                    "processor s": worked,
                    "setup, processor s": min(one["setup cpu"] for one in result),
                    "batch, processor s": min(one["batch cpu"] for one in result),
                }
            )
    least = {
        f"least {name} for {count} images": min(
            (row for row in rows if row["images"] == count), key=lambda row: row[name]
        )["engine"]
        for name in ("seconds", "processor s")
        for count in counts
    }
    work = {"base": args.base, "million multiply-adds": output["torch"][0]["macs"] / 1e6}
    if "openvino" in output:
        work["openvino"] = version("openvino")
    return {"summary": {**work, "jobs beside it": round(busy, 1), **least}, "rows": rows}


def _alone(engine: str, base: str, counts: list[int]) -> dict[str, Any]:
    command = [sys.executable, "-c", ALONE, engine, base, *map(str, counts)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    output: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return output
