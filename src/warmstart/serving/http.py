"""Errors as the web writes them: application/problem+json (RFC 9457)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

# ---- What the server counts, for GET /metrics (Prometheus text).


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
    if answer.ood:
        return "unknown"
    return {True: "confident", False: "uncertain", None: "unpromised"}[answer.confident]


MEDIA_TYPE = "application/problem+json"


class HttpProblem(ServeError):
    """A request that is refused: its HTTP status, why, and what the caller may do."""

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
    """A refusal for now: 503 with Retry-After.

    >>> retry("too much at once", 3).headers
    {'Retry-After': '3'}
    """
    return HttpProblem(503, detail, headers={"Retry-After": str(seconds)})


def as_response(problem: HttpProblem) -> JSONResponse:
    """The response that tells of a problem.

    >>> as_response(HttpProblem(404, "no such page")).body
    b'{"type":"about:blank","title":"Not Found","status":404,"detail":"no such page"}'
    """
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
    """Let every error of an app be a problem, those of the framework and of ours alike."""
    app.add_exception_handler(HttpProblem, _ours)
    app.add_exception_handler(HTTPException, _of_the_framework)
    app.add_exception_handler(RequestValidationError, _of_a_parameter)
    app.add_exception_handler(Exception, _unforeseen)


def _ours(request: Request, error: Exception) -> JSONResponse:
    return as_response(error if isinstance(error, HttpProblem) else HttpProblem(500, _BUG))


def _of_the_framework(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        return as_response(HttpProblem(500, _BUG))
    detail = _SAID.get(error.status_code, str(error.detail))
    return as_response(HttpProblem(error.status_code, detail, headers=error.headers))


def _of_a_parameter(request: Request, error: Exception) -> JSONResponse:
    found = error.errors() if isinstance(error, RequestValidationError) else []
    said = "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in found)
    return as_response(HttpProblem(422, said or "a parameter cannot be used"))


def _unforeseen(request: Request, error: Exception) -> JSONResponse:
    return as_response(HttpProblem(500, _BUG))


_BUG = "this is a bug in warmstart; the server's log says more"
_SAID = {
    404: "there is nothing here; /docs lists what there is",
    405: "not with this method; /docs lists what there is",
}
