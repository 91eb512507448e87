"""Metrics, and errors as application/problem+json (RFC 9457)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from starlette.exceptions import HTTPException

from warmstart.errors import ServeError
from warmstart.records.answer import Answer

# ---- Metrics for GET /metrics, in Prometheus' text format.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_SIZES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Counters of one server, in their own registry."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, files and processor time
        what, names = "Requests answered, refused ones too.", ("method", "path", "status")
        self._requests = Counter("warmstart_requests", what, names, registry=registry)
        histogram = partial(Histogram, registry=registry, buckets=_SECONDS)
        what = "From a request's head to the end of its answer."
        self._seconds = histogram("warmstart_request_seconds", what, ("path",))
        what = "Inputs, by the outcome of their answer."
        self._images = Counter("warmstart_images", what, ("outcome",), registry=registry)
        what = "Inputs in one forward pass."
        self._batch = histogram("warmstart_batch_images", what, buckets=_SIZES)
        self._batch_seconds = histogram("warmstart_batch_seconds", "One forward pass.")

    def watch_queue(self, count: Callable[[], int]) -> None:
        """Report `count()` as the inputs that are being decoded, waiting or in work."""
        name, what = "warmstart_queue_images", "Inputs being decoded, waiting or in work."
        Gauge(name, what, registry=self._registry).set_function(count)

    def count_request(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count one request; `path` is a route's template, of which there are few."""
        self._requests.labels(method, path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def count_image(self, outcome: str) -> None:
        self._images.labels(outcome).inc()

    def count_batch(self, n: int, seconds: float) -> None:
        self._batch.observe(n)
        self._batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)


def outcome_of(answer: Answer) -> str:
    """One word for an answer."""
    if answer.ood:
        return "ood"
    return {True: "confident", False: "uncertain", None: "unpromised"}[answer.confident]


MEDIA_TYPE = "application/problem+json"


class HttpProblem(ServeError):
    """A refused request: its HTTP status, the reason, and what the caller can do."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        images: Sequence[Mapping[str, str]] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = dict(headers or {})
        self.images = tuple(images)


def retry(detail: str, seconds: int) -> HttpProblem:
    """A temporary refusal: 503 with Retry-After."""
    return HttpProblem(503, detail, headers={"Retry-After": str(seconds)})


def as_response(problem: HttpProblem) -> JSONResponse:
    """The response for a problem."""
    content: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": str(problem),
    }
    if problem.images:
        content["images"] = [dict(image) for image in problem.images]
    return JSONResponse(content, problem.status, problem.headers, media_type=MEDIA_TYPE)


def answer_all_errors(app: FastAPI) -> None:
    """Turn every error of an app, the framework's and ours, into a problem."""
    for kind in (HttpProblem, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _answer_error)


def _answer_error(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, HttpProblem):
        return as_response(error)
    if isinstance(error, HTTPException):
        detail = _DETAILS.get(error.status_code, str(error.detail))
        return as_response(HttpProblem(error.status_code, detail, headers=error.headers))
    if isinstance(error, RequestValidationError):
        faults = (f"{'.'.join(map(str, e['loc'][1:]))}: {e['msg']}" for e in error.errors())
        return as_response(HttpProblem(422, "; ".join(faults) or "a parameter cannot be used"))
    return as_response(HttpProblem(500, "this is a bug in warmstart; see the server's log"))


_DETAILS = {
    404: "there is nothing here; /docs lists what there is",
    405: "not with this method; /docs lists what there is",
}
