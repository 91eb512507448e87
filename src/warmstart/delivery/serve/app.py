"""The web application around one model."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer
from pydantic import BaseModel

from warmstart import __version__
from warmstart.delivery.serve.access import Access
from warmstart.delivery.serve.answering import Answering, Batches
from warmstart.delivery.serve.batching import Batcher
from warmstart.delivery.serve.gate import Gate
from warmstart.delivery.serve.metrics import Metrics
from warmstart.delivery.serve.pages import add_pages
from warmstart.delivery.serve.problems import answer_all_errors
from warmstart.delivery.serve.schemas import (
    ALWAYS,
    BODIES,
    OF_A_BODY,
    Answers,
    HeatMap,
    Labels,
    ProblemNote,
    State,
    problems,
)
from warmstart.delivery.serve.served import Limits, Served
from warmstart.delivery.serve.telling import Telling
from warmstart.records import Kind
from warmstart.words import nouns_of

ABOUT = (
    'Send {many}, get classes with calibrated probabilities. An answer may also be "not sure" or '
    '"unlike anything I was shown". Errors are application/problem+json (RFC 9457).'
)


def make_app(served: Served, access: Access, limits: Limits | None = None) -> Gate:
    """An ASGI application for one model. It begins to answer once its lifespan has begun."""
    limits = limits or Limits()
    metrics = Metrics()
    batcher: Batches = Batcher(served.answer, limits, metrics.saw_batch)
    metrics.watch_queue(lambda: batcher.inside)
    pool = ThreadPoolExecutor(decoders(os.cpu_count() or 1), thread_name_prefix="decode")
    # The description is open to all; with a token the model's name is not.
    title = "warmstart" if access.token else f"warmstart: {served.title}"
    app = FastAPI(
        title=title, version=__version__, description=ABOUT.format(many=nouns_of(served.kind).many),
        docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=_lifespan(batcher, pool),
        dependencies=[Security(HTTPBearer(auto_error=False))] if access.token else [],
    )  # fmt: skip
    answering = Answering(served, limits, batcher, pool, metrics)
    _add_images(app, answering, served.kind)
    _add_telling(app, Telling(served, batcher, answering, metrics))
    add_pages(app)
    answer_all_errors(app)
    _describe(app, [ProblemNote])
    return Gate(app, access, metrics)


def decoders(cores: int) -> int:
    """Threads that decode: the network needs the cores more, and each large picture 200 MB.

    >>> decoders(1), decoders(2), decoders(64)
    (1, 2, 4)
    """
    return max(1, min(cores, 4))


def _lifespan(batcher: Batches, pool: ThreadPoolExecutor) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def alive(app: FastAPI) -> AsyncIterator[None]:
        at_work = asyncio.create_task(batcher.run())
        yield
        at_work.cancel()
        with suppress(asyncio.CancelledError):
            await at_work
        batcher.close()
        pool.shutdown(wait=True, cancel_futures=True)

    return alive


def _add_images(app: FastAPI, answering: Answering, kind: Kind) -> None:
    body, nouns = BODIES[kind], nouns_of(kind)
    app.add_api_route(
        "/predict", answering.predict, methods=["POST"], response_model=Answers,
        responses=problems(*OF_A_BODY), openapi_extra=body(True),
        summary=f"Name the class of {nouns.many}",
    )  # fmt: skip
    app.add_api_route(
        "/explain", answering.explain, methods=["POST"], response_model=HeatMap,
        responses=problems(*OF_A_BODY), openapi_extra=body(False),
        summary=f"Show what in {nouns.an} mattered",
    )  # fmt: skip


def _add_telling(app: FastAPI, telling: Telling) -> None:
    def add(path: str, endpoint: Any, model: type[BaseModel] | None, *statuses: int) -> None:
        app.add_api_route(
            path, endpoint, methods=["GET"], response_model=model,
            responses=problems(*ALWAYS, *statuses),
        )  # fmt: skip

    add("/labels", telling.labels, Labels)
    add("/metadata", telling.metadata, None)
    add("/health", telling.health, State)
    add("/ready", telling.ready, State, 503)
    add("/metrics", telling.metrics, None)
    add("/examples/{index}/thumbnail", telling.thumbnail, None, 404, 422)


def _describe(app: FastAPI, more: Sequence[type[BaseModel]]) -> None:
    """Add to the description what no route returns by its type: the problems."""
    plain = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = plain()
            parts = schema.setdefault("components", {}).setdefault("schemas", {})
            for model in more:
                parts[model.__name__] = model.model_json_schema()
        return app.openapi_schema or plain()

    app.openapi = described  # type: ignore[method-assign]
