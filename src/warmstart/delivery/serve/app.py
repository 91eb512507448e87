"""The web application around one model."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Security
from fastapi.responses import PlainTextResponse, Response
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
    FILE,
    OF_A_BODY,
    Answers,
    HeatMap,
    Labels,
    ProblemNote,
    State,
    body_of,
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
    )  # fmt: skip
    answering = Answering(served, limits, batcher, pool, metrics)
    add = _adder(app, access)
    _add_answers(add, answering, served.kind, limits)
    _add_telling(add, Telling(served, batcher, answering, metrics))
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


def _adder(app: FastAPI, access: Access) -> Callable[..., None]:
    """What adds a route with the errors that it may answer, a token's only where it needs one."""

    def add(path: str, endpoint: Any, statuses: Sequence[int], **more: Any) -> None:
        is_closed = access.token is not None and path not in access.open_paths
        wanted = [*ALWAYS, *([401] if is_closed else []), *statuses]
        app.add_api_route(
            path, endpoint, responses={**problems(*wanted), **more.pop("responses", {})},
            dependencies=[Security(HTTPBearer(auto_error=False))] if is_closed else [], **more,
        )  # fmt: skip

    return add


def _add_answers(
    add: Callable[..., None], answering: Answering, kind: Kind, limits: Limits
) -> None:
    nouns, most = nouns_of(kind), limits.rows if kind == "table" else limits.images
    add(
        "/predict", answering.predict, OF_A_BODY, methods=["POST"], response_model=Answers,
        openapi_extra=body_of(kind, most), summary=f"Name the class of {nouns.many}",
    )  # fmt: skip
    add(
        "/explain", answering.explain, OF_A_BODY, methods=["POST"], response_model=HeatMap,
        openapi_extra=body_of(kind, 1), summary=f"Show what in {nouns.an} mattered",
    )  # fmt: skip


def _add_telling(add: Callable[..., None], telling: Telling) -> None:
    def is_(media_type: str, schema: dict[str, Any]) -> dict[int, Any]:
        return {200: {"content": {media_type: {"schema": schema}}}}

    add("/labels", telling.labels, (), response_model=Labels)
    add("/metadata", telling.metadata, (), responses=is_("application/json", {"type": "object"}))
    add("/health", telling.health, (), response_model=State)
    add("/ready", telling.ready, (503,), response_model=State)
    add("/metrics", telling.metrics, (), response_class=PlainTextResponse)
    add(
        "/examples/{index}/thumbnail", telling.thumbnail, (404, 422), response_class=Response,
        responses=is_("image/jpeg", FILE),
    )  # fmt: skip


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
