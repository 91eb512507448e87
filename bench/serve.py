"""The server under 200 clients for a minute: throughput, p99, errors, memory."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from bench import sets

SET = "clothing"
WARM_S = 10.0  # before anything counts: the memory of both sides must settle
# The same images without a server: read, decoded, passed one batch at a time.
RAW = """
import json, sys, time
from warmstart.cli.main import prepare
prepare()
from warmstart.run.predictor import load
run, seconds, paths = sys.argv[1], float(sys.argv[2]), json.loads(sys.stdin.read())
predictor = load(run)
predictor.predict(paths[:64])
done, began = 0, time.perf_counter()
while time.perf_counter() - began < seconds:
    done += sum(answer.label is not None for answer in predictor.stream(paths))
print(json.dumps(done / (time.perf_counter() - began)))
"""


def add_options(parser: ArgumentParser) -> None:
    """--clients, --seconds, --run."""
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--run", type=Path, help="a finished run (default: one on clothing)")


def measure(args: Namespace) -> dict[str, Any]:
    """Raw rate, served rate, raw rate again, on the same cores; the clients use them, too."""
    images = sorted((sets.root(args) / SET / "test").rglob("*.jpg"))
    with tempfile.TemporaryDirectory() as place:
        run = args.run or _fit(sets.root(args) / SET, Path(place) / "run")
        busy = os.getloadavg()[0]
        before = _raw(run, images, args.seconds / 3)
        seen = asyncio.run(_serve(run, images, args))
        after = _raw(run, images, args.seconds / 3)
    raw, rate = mean((before, after)), len(seen.waits) / args.seconds
    thirds = len(seen.rss_mb) // 3
    first, last = mean(seen.rss_mb[:thirds]), mean(seen.rss_mb[-thirds:])
    waits = sorted(seen.waits)
    summary = {
        "clients": args.clients,
        "seconds": args.seconds,
        "images": len(images),
        "raw, images a second": raw,
        "raw before": before,
        "raw after": after,
        "served, images a second": rate,
        "served / raw": rate / raw,
        "answers": dict(seen.statuses),
        "errors": seen.errors,
        "p50 s": waits[len(waits) // 2],
        "p99 s": waits[int(len(waits) * 0.99)],
        "slowest s": waits[-1],
        "memory first third, MB": first,
        "memory last third, MB": last,
        "memory, last / first": last / first,
        "jobs beside it": round(busy, 1),
    }
    return {"summary": summary, "rows": []}


def _fit(data: Path, out: Path) -> Path:
    words = ["fit", str(data), "--budget", "fast", "--out", str(out), "--quiet", "--json"]
    subprocess.run([sys.executable, "-m", "warmstart", *words], check=True, capture_output=True)
    return out


def _raw(run: Path, images: Sequence[Path], seconds: float) -> float:
    command = [sys.executable, "-c", RAW, str(run), str(seconds)]
    paths = json.dumps([str(path) for path in images])
    done = subprocess.run(command, input=paths, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


@dataclass
class _Seen:
    """What the clients saw. `waits` are the seconds of answers with status 200 that count."""

    statuses: Counter[int] = field(default_factory=Counter)
    waits: list[float] = field(default_factory=list)
    errors: int = 0  # broken connections, and refusals that announce no time to come back
    rss_mb: list[float] = field(default_factory=list)


async def _serve(run: Path, images: Sequence[Path], args: Namespace) -> _Seen:
    command = [sys.executable, "-m", "warmstart", "serve", str(run), "--port", "0", "--json"]
    job = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        line = await job.stdout.readline() if job.stdout else b""
        port = int(json.loads(line)["url"].rstrip("/").rpartition(":")[2])
        requests = [_request(path.read_bytes()) for path in images]
        seen, begin = _Seen(), time.perf_counter() + WARM_S
        window = (begin, begin + args.seconds)
        clients = [_client(port, requests, n, window, seen) for n in range(args.clients)]
        await asyncio.gather(_watch(job.pid, window, seen), *clients)
        job.send_signal(signal.SIGTERM)
        if await job.wait():
            seen.errors += 1
        return seen
    finally:
        if job.returncode is None:
            job.kill()


def _request(payload: bytes) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
    body = head + payload + b"\r\n--x--\r\n"
    return (
        b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    ) + body


async def _client(
    port: int, requests: Sequence[bytes], number: int, window: tuple[float, float], seen: _Seen
) -> None:
    """One connection that asks again as soon as it is answered."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    turn = 7 * number
    while (sent := time.perf_counter()) < window[1]:
        try:
            writer.write(requests[turn % len(requests)])
            status, retry = await _answer(reader)
        except (OSError, asyncio.IncompleteReadError):
            seen.errors += 1
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            continue
        turn += 1
        done = time.perf_counter()
        if window[0] <= done < window[1]:
            seen.statuses[status] += 1
            seen.errors += status != 200 and not (status == 503 and retry)
            if status == 200:
                seen.waits.append(done - sent)
        if retry:
            await asyncio.sleep(retry)
    writer.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, float]:
    """Status, and the seconds of Retry-After (0 without); the body is read and dropped."""
    lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
    named = dict(line.split(b": ", 1) for line in lines[1:] if line)
    await reader.readexactly(int(named[b"content-length"]))
    return int(lines[0].split()[1]), float(named.get(b"retry-after", 0))


async def _watch(pid: int, window: tuple[float, float], seen: _Seen) -> None:
    """The server's resident memory, once a second."""
    while time.perf_counter() < window[1]:
        if time.perf_counter() >= window[0]:
            status = Path(f"/proc/{pid}/status").read_text()
            seen.rss_mb.append(int(status.split("VmRSS:")[1].split()[0]) / 1024)
        await asyncio.sleep(1.0)
