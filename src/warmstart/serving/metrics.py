"""What the server counts, for GET /metrics (Prometheus text)."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from warmstart.records.answer import Answer

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SIZES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Counters of one server; they live in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)  # memory, files and processor time
        self._requests = Counter(
            "warmstart_requests",
            "Requests answered, refused ones too.",
            ("method", "path", "status"),
            registry=self._registry,
        )
        self._seconds = Histogram(
            "warmstart_request_seconds",
            "From a request's head to the end of its answer.",
            ("path",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._images = Counter(
            "warmstart_images",
            "What was asked about, by what was said of it.",
            ("outcome",),
            registry=self._registry,
        )
        self._batch = Histogram(
            "warmstart_batch_images",
            "How many passed the network together.",
            buckets=_SIZES,
            registry=self._registry,
        )
        self._pass = Histogram(
            "warmstart_batch_seconds",
            "One pass of the network.",
            buckets=_SECONDS,
            registry=self._registry,
        )

    def watch_queue(self, count: Callable[[], int]) -> None:
        """Report what `count` says at each reading as the images that are inside."""
        gauge = Gauge(
            "warmstart_queue_images",
            "How many are being decoded, waiting or in work.",
            registry=self._registry,
        )
        gauge.set_function(count)

    def saw_request(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count one request; `path` is a route's template, so that there are few."""
        self._requests.labels(method, path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def saw_image(self, outcome: str) -> None:
        """Count one image."""
        self._images.labels(outcome).inc()

    def saw_batch(self, n: int, seconds: float) -> None:
        """Count one pass of n images."""
        self._batch.observe(n)
        self._pass.observe(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)


def outcome_of(answer: Answer) -> str:
    """One word for an answer.

    >>> outcome_of(Answer(path="", label="a", probability=1.0, sure=None, unknown=False, scores={}))
    'unpromised'
    """
    if answer.unknown:
        return "unknown"
    return {True: "sure", False: "unsure", None: "unpromised"}[answer.sure]
