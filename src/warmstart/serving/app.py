"""The web application around one model."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from importlib.resources import files
from typing import Any, TypeVar

from fastapi import FastAPI, Path, Request, Security
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.security import HTTPBearer
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field

from warmstart import __version__
from warmstart.nouns import Nouns, nouns_of
from warmstart.records.answer import Answer
from warmstart.records.inputs import Kind
from warmstart.serving.access import Access, Gate
from warmstart.serving.batching import Batcher
from warmstart.serving.http import (
    MEDIA_TYPE,
    HttpProblem,
    Metrics,
    answer_all_errors,
    outcome_of,
    retry,
)
from warmstart.serving.inputs import (
    CLIPS,
    IMAGES,
    ROWS,
    TEXTS,
    Intake,
    Sent,
    Takes,
    clips_in,
    images_in,
    rows_in,
    texts_in,
)
from warmstart.serving.model import ServedModel, ServedPicture, ServerLimits, Unread
from warmstart.serving.wording import heat_words, own_keys, words

# ---- POST /predict and POST /explain: body in, images decoded in a pool, network in its thread.


Done = TypeVar("Done")
SENT: dict[Kind, tuple[Takes, Callable[[str, bytes, ServerLimits], list[Sent]]]] = {
    "image": (IMAGES, images_in),
    "audio": (CLIPS, clips_in),
    "text": (TEXTS, texts_in),
    "table": (ROWS, rows_in),
}
Batches = Batcher[ServedPicture, Answer]


class Answering:
    """Everything between a request with images and its answer."""

    def __init__(
        self,
        served: ServedModel,
        limits: ServerLimits,
        batcher: Batches,
        pool: ThreadPoolExecutor,
        metrics: Metrics,
    ) -> None:
        self._served = served
        self._limits = limits
        self._batcher = batcher
        self._pool = pool
        self._metrics = metrics
        self._intake = Intake(limits)
        self._takes, self._sent_in = SENT[served.kind]

    async def predict(self, request: Request) -> JSONResponse:
        """Which class each image shows, and how likely that is."""
        async with self._intake.body(request, self._takes) as body:
            sent = await self._images(request, body)
            with self._batcher.room(len(sent)):
                read = await self._decoded(sent)
                pictures = [one for one in read if isinstance(one, ServedPicture)]
                answers = iter(await self._batcher.ask(pictures))
        found = [
            self._unread(one) if isinstance(one, Unread) else self._named(one, next(answers))
            for one in read
        ]
        return JSONResponse({"answers": found})

    async def explain(self, request: Request) -> JSONResponse:
        """What in one image mattered for its label."""
        async with self._intake.body(request, self._takes) as body:
            sent = await self._images(request, body)
            if len(sent) != 1:
                told = f"{self._nouns.count(len(sent))} were sent; one at a time is explained"
                raise HttpProblem(422, told)
            explain = self._served.explain
            if explain is None:
                raise HttpProblem(422, self._served.no_heat)
            with self._batcher.room(1):
                (picture,) = await self._decoded(sent)
                if isinstance(picture, Unread):  # then `_decoded` has raised
                    raise self._refused([picture])
                heat = await self._batcher.alone(lambda: explain(picture))
        return JSONResponse(
            {
                "label": heat.label,
                "words": heat_words(heat.label, heat.probability, heat.covered),
                "grid": [[round(float(value), 3) for value in row] for row in heat.grid],
                "box": [round(side, 4) for side in picture.box],
            }
        )

    async def thumbnail(self, index: int) -> bytes | None:
        """A small picture of a training example, None where it is gone."""
        return await self._beside(lambda: self._served.thumbnail(index))

    async def _images(self, request: Request, body: bytes) -> list[Sent]:
        kind = request.headers.get("content-type", "")
        return await self._beside(lambda: self._sent_in(kind, body, self._limits))

    async def _decoded(self, sent: Sequence[Sent]) -> list[ServedPicture | Unread]:
        """Raises: Problem 413 or 422 where not one of them could be read."""
        decode = self._served.decode
        works = [partial(decode, one.payload, one.name) for one in sent]
        read = await asyncio.gather(*map(self._beside, works))
        lost = [one for one in read if isinstance(one, Unread)]
        for _ in lost:
            self._metrics.saw_image("unreadable")
        if len(lost) == len(read):
            raise self._refused(lost)
        return list(read)

    async def _beside(self, work: Callable[[], Done]) -> Done:
        """Work that must not hold up the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _named(self, picture: ServedPicture, answer: Answer) -> dict[str, Any]:
        self._metrics.saw_image(outcome_of(answer))
        return {
            **own_keys(answer),
            "name": picture.name,
            "label": answer.label,
            "probability": answer.probability,
            "confident": answer.confident,
            "ood": answer.ood,
            "words": words(answer, self._nouns),
            "scores": answer.scores,
            "nearest": self._near(answer.nearest),
            "error": None,
        }

    @property
    def _nouns(self) -> Nouns:
        return nouns_of(self._served.kind)

    def _near(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        numbers = [self._served.number(id) for id in ids]
        return [{"index": n, "label": self._served.kin(n)} for n in numbers if n is not None]

    def _unread(self, one: Unread) -> dict[str, Any]:
        return {
            "name": one.name,
            "label": None,
            "probability": None,
            "confident": None,
            "ood": False,
            "words": f"not {self._nouns.an}",
            "scores": {},
            "nearest": [],
            "error": one.why,
        }

    def _refused(self, lost: Sequence[Unread]) -> HttpProblem:
        status = 413 if all(one.is_too_large for one in lost) else 422
        if len(lost) == 1:
            return HttpProblem(status, lost[0].why)
        many = [{"name": one.name, "error": one.why} for one in lost]
        detail = f"none of {self._nouns.count(len(lost))} could be read"
        return HttpProblem(status, detail, images=many)


# ---- The page's files: read once, served by fixed names, never by a path from a request.


FILES = {
    "/": ("index.html", "text/html"),
    "/faults.js": ("faults.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/look.js": ("look.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/docs": ("docs.html", "text/html"),
    "/docs.css": ("docs.css", "text/css"),
    "/docs.js": ("docs.js", "text/javascript"),
}


def add_pages(app: FastAPI, pages: Mapping[str, tuple[str, str]] = FILES) -> None:
    """Add a route for each file; they are no part of the API's description."""
    folder = files("warmstart.serving") / "page"
    for path, (name, kind) in pages.items():
        send = _sender(folder.joinpath(*name.split("/")).read_bytes(), kind)
        app.add_api_route(path, send, methods=["GET", "HEAD"], include_in_schema=False)


def _sender(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
    async def send() -> Response:
        return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

    return send


# ---- What requests and answers look like, for the OpenAPI description.


Schema = dict[str, Any]


class Near(BaseModel):
    """A training image that is most similar."""

    index: int = Field(description="its place in data.json; see /examples/{index}/thumbnail")
    label: str


class LabelledAnswer(BaseModel):
    """One image answered, or `error` where it could not be read."""

    name: str
    label: str | None
    probability: float | None = Field(description="calibrated: of all 0.8, eight in ten are right")
    confident: bool | None = Field(description="null where nothing could be promised")
    ood: bool = Field(description="unlike all that the model was shown")
    words: str
    scores: dict[str, float]
    nearest: list[Near]
    error: str | None = None
    labels: list[str] | None = Field(None, description="those named, of several labels")
    value: float | None = Field(None, description="the number, of a model of numbers")
    low: float | None = Field(None, description="90 % of truths lie between low and high")
    high: float | None = None


class Answers(BaseModel):
    """One answer an image, in the order in which they were sent."""

    answers: list[LabelledAnswer]


class HeatMap(BaseModel):
    """What mattered for the label."""

    label: str
    words: str
    grid: list[list[float]] = Field(description="rows from the top; 1: covering it changed most")
    box: list[float] = Field(
        min_length=4,
        max_length=4,
        description="the part of the picture that the grid lies over: left, top, right, bottom",
    )


class Labels(BaseModel):
    """Class names in the order of the model's outputs."""

    labels: list[str]


class State(BaseModel):
    """Whether the server lives, or takes more work."""

    status: str


class ProblemNote(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    detail: str
    images: list[dict[str, str]] = []


_SAID = {
    400: "the request makes no sense",
    401: "a token is needed",
    403: "asked by a foreign page",
    404: "nothing here",
    408: "the body came too slowly",
    413: "too large",
    415: "of a kind that is not read",
    421: "meant for another host",
    422: "no input, or not one that can be read",
    500: "a bug; the server's log says more",
    503: "too much at once; see Retry-After",
}
_HEADERS = {
    401: {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}},
    503: {"Retry-After": {"required": True, "schema": {"type": "integer"}}},
}
ALWAYS = (400, 403, 421, 500)
OF_A_BODY = (408, 413, 415, 422, 503)
FILE: Schema = {"type": "string", "format": "binary"}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route.

    >>> sorted(problems(404))
    [404]
    """
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemNote"}}}
    return {
        status: {"description": _SAID[status], "content": content}
        | ({"headers": _HEADERS[status]} if status in _HEADERS else {})
        for status in statuses
    }


def body_of(kind: Kind, most: int) -> Schema:
    """The request body of a route that takes at most `most` inputs of a kind, as a part of an
    operation; the content types are those that are read."""
    takes, one = TAKES[kind]
    names = (name.decode() for name in takes.kinds)
    content = {f"{name}*" if name.endswith("/") else name: FILE for name in names}
    content |= {name: {"type": "string"} for name in content if name.startswith("text/")}
    content |= {"multipart/form-data": _form(most), "application/json": one(most)}
    schemas = {name: {"schema": schema} for name, schema in content.items()}
    return {"requestBody": {"required": True, "content": schemas}}


def _form(most: int) -> Schema:
    files = FILE if most == 1 else {"type": "array", "items": FILE, "minItems": 1}
    return {"type": "object", "properties": {"file": files}, "required": ["file"]}


def _one_or_many(name: str, one: Schema, most: int) -> Schema:
    """`{"text": …}` or `{"texts": […]}`; one of the two."""
    many = {"type": "array", "items": one, "minItems": 1, "maxItems": most}
    return {
        "type": "object",
        "properties": {name: one, f"{name}s": many},
        "oneOf": [{"required": [name]}, {"required": [f"{name}s"]}],
        "additionalProperties": False,
    }


def _files(most: int) -> Schema:
    told = "base64, or a data: URL of it"
    return _one_or_many("image", {"type": "string", "description": told}, most)


def _texts(most: int) -> Schema:
    one = {"type": "string"}
    bare = {"type": "array", "items": one, "minItems": 1, "maxItems": most}
    return {"anyOf": [_one_or_many("text", one, most), bare]}


def _rows(most: int) -> Schema:
    cell = {"type": ["string", "number", "boolean", "null"]}
    row = {"type": "object", "additionalProperties": cell, "description": "cells by column"}
    return _one_or_many("row", row, most)


TAKES: dict[Kind, tuple[Takes, Callable[[int], Schema]]] = {
    "image": (IMAGES, _files),
    "audio": (CLIPS, _files),
    "text": (TEXTS, _texts),
    "table": (ROWS, _rows),
}


# ---- What the server tells of itself: labels, metadata, health, readiness, metrics, thumbnails.


MOST = 10**9  # an index beyond is no place in any list


class Telling:
    """Routes without a body."""

    def __init__(
        self, served: ServedModel, batcher: Batches, answering: Answering, metrics: Metrics
    ) -> None:
        self._served = served
        self._batcher = batcher
        self._answering = answering
        self._metrics = metrics

    async def labels(self) -> JSONResponse:
        """Class names in the order of the model's outputs."""
        return JSONResponse({"labels": list(self._served.labels)})

    async def metadata(self) -> JSONResponse:
        """What the model is, how often it is right, and what the server takes."""
        return JSONResponse(dict(self._served.metadata))

    async def health(self) -> JSONResponse:
        """Whether the server lives."""
        return JSONResponse({"status": "alive"})

    async def ready(self) -> JSONResponse:
        """Whether it takes another image: not while its queue is full or a pass hangs."""
        if self._batcher.is_stuck:
            raise retry("a pass of the network hangs", 5)
        if self._batcher.is_full:
            raise retry("the queue is full", 1)
        return JSONResponse({"status": "ready"})

    async def metrics(self) -> Response:
        """Counters in Prometheus' text format."""
        return Response(self._metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def thumbnail(
        self, index: int = Path(ge=0, le=MOST, description="place in data.json")
    ) -> Response:
        """A small JPEG of a training image, if it still is what the model learnt from."""
        found = await self._answering.thumbnail(index)
        if found is None:
            raise HttpProblem(
                404, "there is no such training image, or it is no longer what it was"
            )
        kept = {"Cache-Control": "private, max-age=86400"}
        return Response(found, media_type="image/jpeg", headers=kept)


ABOUT = (
    'Send {many}, get classes with calibrated probabilities. An answer may also be "not sure" or '
    '"unlike anything I was shown". Errors are application/problem+json (RFC 9457).'
)


def make_app(served: ServedModel, access: Access, limits: ServerLimits | None = None) -> Gate:
    """An ASGI application for one model. It begins to answer once its lifespan has begun."""
    limits = limits or ServerLimits()
    metrics = Metrics()
    batcher: Batches = Batcher(served.answer, limits, metrics.saw_batch)
    metrics.watch_queue(lambda: batcher.inside)
    pool = ThreadPoolExecutor(decoders(os.cpu_count() or 1), thread_name_prefix="decode")
    # The description is open to all; with a token the model's name is not.
    title = "warmstart" if access.token else f"warmstart: {served.title}"
    app = FastAPI(
        title=title,
        version=__version__,
        description=ABOUT.format(many=nouns_of(served.kind).many),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan(batcher, pool),
    )
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
            path,
            endpoint,
            responses={**problems(*wanted), **more.pop("responses", {})},
            dependencies=[Security(HTTPBearer(auto_error=False))] if is_closed else [],
            **more,
        )

    return add


def _add_answers(
    add: Callable[..., None], answering: Answering, kind: Kind, limits: ServerLimits
) -> None:
    nouns, most = nouns_of(kind), limits.rows if kind == "table" else limits.images
    add(
        "/predict",
        answering.predict,
        OF_A_BODY,
        methods=["POST"],
        response_model=Answers,
        openapi_extra=body_of(kind, most),
        summary=f"Name the class of {nouns.many}",
    )
    add(
        "/explain",
        answering.explain,
        OF_A_BODY,
        methods=["POST"],
        response_model=HeatMap,
        openapi_extra=body_of(kind, 1),
        summary=f"Show what in {nouns.an} mattered",
    )


def _add_telling(add: Callable[..., None], telling: Telling) -> None:
    def is_(media_type: str, schema: dict[str, Any]) -> dict[int, Any]:
        return {200: {"content": {media_type: {"schema": schema}}}}

    add("/labels", telling.labels, (), response_model=Labels)
    add("/metadata", telling.metadata, (), responses=is_("application/json", {"type": "object"}))
    add("/health", telling.health, (), response_model=State)
    add("/ready", telling.ready, (503,), response_model=State)
    add("/metrics", telling.metrics, (), response_class=PlainTextResponse)
    add(
        "/examples/{index}/thumbnail",
        telling.thumbnail,
        (404, 422),
        response_class=Response,
        responses=is_("image/jpeg", FILE),
    )


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
