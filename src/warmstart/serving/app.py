"""The web application around one model: its routes, batches of many requests, description."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from importlib.resources import files
from typing import Any, Generic, TypeVar

from fastapi import FastAPI, Path, Request, Security
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.security import HTTPBearer
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import BaseModel, Field

from warmstart import __version__
from warmstart.modalities.modality import Form
from warmstart.modalities.registry import MODALITIES
from warmstart.records.answer import Answer
from warmstart.records.inputs import Kind
from warmstart.serving.access import Access, Gate
from warmstart.serving.http import (
    MEDIA_TYPE,
    HttpProblem,
    Metrics,
    answer_all_errors,
    outcome_of,
    retry,
)
from warmstart.serving.inputs import (
    BodyReader,
    Upload,
    body_types,
    read_files,
    read_rows,
    read_texts,
)
from warmstart.serving.model import (
    ServedModel,
    ServedPicture,
    ServerLimits,
    UnreadableInput,
    heat_words,
    own_keys,
    words,
)

# ---- Batching: inputs of many requests share a forward pass; the queue is bounded.


Item = TypeVar("Item")
Result = TypeVar("Result")
Job = TypeVar("Job")


class Batcher(Generic[Item, Result]):
    """Collects items for some milliseconds and runs `work` on them in its own thread.

    `work` takes up to `limits.batch` items and returns as many results. `on_batch` gets the size
    and the seconds of each batch. Items that arrive meanwhile form the next batch.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        limits: ServerLimits,
        on_batch: Callable[[int, float], None],
    ) -> None:
        self._work = work
        self._limits = limits
        self._on_batch = on_batch
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._arrived = asyncio.Event()
        self.n_pending = 0  # admitted items without an answer
        self._pace = 0.02  # seconds an item, moving average
        self._explaining = 0
        self._busy_since: float | None = None

    @property
    def is_stuck(self) -> bool:
        """Whether a batch has taken longer than an answer may."""
        since = self._busy_since
        return since is not None and time.monotonic() - since > self._limits.answer_s

    @property
    def is_full(self) -> bool:
        return self.n_pending >= self._limits.queue

    @contextmanager
    def admit(self, n: int) -> Iterator[None]:
        """Admit n items while the context lasts.

        Raises: Problem 503 with Retry-After where the queue is full.
        """
        if self.n_pending + n > self._limits.queue:
            raise retry("too many are waiting; try again", self._seconds_to_wait())
        self.n_pending += n
        try:
            yield
        finally:
            self.n_pending -= n

    async def submit(self, items: Sequence[Item]) -> list[Result]:
        """Results in the order of the items. Raises: Problem 503 where they take too long."""
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in items]
        self._waiting.extend(zip(items, futures, strict=True))
        self._arrived.set()
        try:
            async with asyncio.timeout(self._limits.answer_s):
                return list(await asyncio.gather(*futures))
        except TimeoutError:
            raise retry("no answer came in time; try again", self._seconds_to_wait()) from None
        finally:
            for future in futures:  # of a client that has gone
                future.cancel()

    async def run_alone(self, job: Callable[[], Job]) -> Job:
        """Run one job between two batches, in their thread.

        Raises: Problem 503 where several are waiting, or it takes too long.
        """
        if self._explaining >= self._limits.explaining:
            raise retry("several explanations are running; try again", 2)
        self._explaining += 1
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._limits.answer_s):
                return await loop.run_in_executor(self._thread, job)
        except TimeoutError:
            raise retry("no answer came in time; try again", self._seconds_to_wait()) from None
        finally:
            self._explaining -= 1

    async def run(self) -> None:
        """Run batches for ever; cancel it to stop."""
        while True:
            await self._arrived.wait()
            if len(self._waiting) < self._limits.batch:
                await asyncio.sleep(self._limits.gather_s)
            batch: list[tuple[Item, asyncio.Future[Result]]] = []
            while self._waiting and len(batch) < self._limits.batch:
                item, future = self._waiting.popleft()
                if not future.done():
                    batch.append((item, future))
            if not self._waiting:
                self._arrived.clear()
            if batch:
                await self._run_batch(batch)

    def close(self) -> None:
        """Wait for the running batch, then end the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    async def _run_batch(self, batch: Sequence[tuple[Item, asyncio.Future[Result]]]) -> None:
        loop = asyncio.get_running_loop()
        items = [item for item, _ in batch]
        began = self._busy_since = time.monotonic()
        try:
            results = await loop.run_in_executor(self._thread, self._work, items)
        except Exception as error:  # one bad batch must not end the server
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        finally:
            self._busy_since = None
        seconds = time.monotonic() - began
        self._pace += 0.2 * (seconds / len(batch) - self._pace)
        self._on_batch(len(batch), seconds)
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)

    def _seconds_to_wait(self) -> int:
        return min(max(math.ceil(self.n_pending * self._pace), 1), 60)


# ---- POST /predict and POST /explain: inputs are decoded in a pool, the network has its thread.

Batches = Batcher[ServedPicture, Answer]
MOST = 10**9  # the largest index


class Routes:
    """The routes of one model."""

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
        self._bodies = BodyReader(limits)
        self._nouns = MODALITIES[served.kind].nouns
        modality = MODALITIES[served.kind]
        self._types = body_types(modality)
        readers = {"texts": read_texts, "rows": read_rows}
        self._read = readers.get(modality.form, partial(read_files, modality=modality))

    async def predict(self, request: Request) -> JSONResponse:
        """The class of each input, with its calibrated probability."""
        async with self._bodies.body(request, self._types) as body:
            uploads = await self._uploads(request, body)
            with self._batcher.admit(len(uploads)):
                inputs = await self._decode(uploads)
                pictures = [one for one in inputs if isinstance(one, ServedPicture)]
                answers = iter(await self._batcher.submit(pictures))
        content = []
        for one in inputs:
            answer = next(answers) if isinstance(one, ServedPicture) else _no_answer(one)
            if answer.error is None:
                self._metrics.count_image(outcome_of(answer))
            content.append(self._content(one.name, answer))
        return JSONResponse({"answers": content})

    async def explain(self, request: Request) -> JSONResponse:
        """What mattered in one image for its label."""
        async with self._bodies.body(request, self._types) as body:
            uploads = await self._uploads(request, body)
            if len(uploads) != 1:
                count = self._nouns.count(len(uploads))
                raise HttpProblem(422, f"{count} were sent; send one at a time to explain")
            explain = self._served.explain
            if explain is None:
                raise HttpProblem(422, self._served.no_heat)
            with self._batcher.admit(1):
                (picture,) = await self._decode(uploads)
                if isinstance(picture, UnreadableInput):  # then `_decode` has raised
                    raise self._all_unreadable([picture])
                heat = await self._batcher.run_alone(partial(explain, picture))
        return JSONResponse(
            {
                "label": heat.label,
                "words": heat_words(heat.label, heat.probability, heat.covered),
                "grid": [[round(float(value), 3) for value in row] for row in heat.grid],
                "box": [round(side, 4) for side in picture.box],
            }
        )

    async def labels(self) -> JSONResponse:
        """Class names in the order of the model's outputs."""
        return JSONResponse({"labels": list(self._served.labels)})

    async def metadata(self) -> JSONResponse:
        """The model, its accuracy, and the inputs that it takes."""
        return JSONResponse(dict(self._served.metadata))

    async def health(self) -> JSONResponse:
        """Whether the server is alive."""
        return JSONResponse({"status": "alive"})

    async def ready(self) -> JSONResponse:
        """Whether it accepts another input: not while its queue is full or a batch hangs."""
        if self._batcher.is_stuck:
            raise retry("a forward pass hangs", 5)
        if self._batcher.is_full:
            raise retry("the queue is full", 1)
        return JSONResponse({"status": "ready"})

    async def metrics(self) -> Response:
        """Counters in Prometheus' text format."""
        return Response(self._metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def thumbnail(
        self, index: int = Path(ge=0, le=MOST, description="position in data.json")
    ) -> Response:
        """A small JPEG of a training image, if it is unchanged since training."""
        jpeg = await self._in_pool(partial(self._served.thumbnail, index))
        if jpeg is None:
            raise HttpProblem(404, "there is no such training image, or it has changed")
        headers = {"Cache-Control": "private, max-age=86400"}
        return Response(jpeg, media_type="image/jpeg", headers=headers)

    async def _uploads(self, request: Request, body: bytes) -> list[Upload]:
        kind = request.headers.get("content-type", "")
        return await self._in_pool(lambda: self._read(kind, body, self._limits))

    async def _decode(self, uploads: Sequence[Upload]) -> list[ServedPicture | UnreadableInput]:
        """Raises: Problem 413 or 422 where none of them can be read."""
        decode = self._served.decode
        jobs = [partial(decode, one.payload, one.name) for one in uploads]
        inputs = await asyncio.gather(*map(self._in_pool, jobs))
        unreadable = [one for one in inputs if isinstance(one, UnreadableInput)]
        for _ in unreadable:
            self._metrics.count_image("unreadable")
        if len(unreadable) == len(inputs):
            raise self._all_unreadable(unreadable)
        return list(inputs)

    async def _in_pool(self, job: Callable[[], Result]) -> Result:
        """Run what would block the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, job)

    def _content(self, name: str, answer: Answer) -> dict[str, Any]:
        indices = [self._served.index_of(id) for id in answer.nearest]
        return {
            **own_keys(answer),
            "name": name,
            "label": answer.label,
            "probability": answer.probability,
            "confident": answer.confident,
            "ood": answer.ood,
            "words": words(answer, self._nouns),
            "scores": answer.scores,
            "nearest": [
                {"index": i, "label": self._served.label_of(i)} for i in indices if i is not None
            ],
            "error": answer.error,
        }

    def _all_unreadable(self, inputs: Sequence[UnreadableInput]) -> HttpProblem:
        status = 413 if all(one.is_too_large for one in inputs) else 422
        if len(inputs) == 1:
            return HttpProblem(status, inputs[0].why)
        errors = [{"name": one.name, "error": one.why} for one in inputs]
        detail = f"none of {self._nouns.count(len(inputs))} could be read"
        return HttpProblem(status, detail, images=errors)


def _no_answer(one: UnreadableInput) -> Answer:
    return Answer(
        path=one.name,
        label=None,
        probability=None,
        confident=None,
        ood=False,
        scores={},
        error=one.why,
    )


# ---- The page's files, served by fixed names, never by a path from a request.

FILES = {
    "/": ("index.html", "text/html"),
    "/script_errors.js": ("script_errors.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/answer.js": ("answer.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/docs": ("docs.html", "text/html"),
    "/docs.css": ("docs.css", "text/css"),
    "/docs.js": ("docs.js", "text/javascript"),
}


def add_pages(
    app: FastAPI, pages: Mapping[str, tuple[str, str]] = FILES, package: str = "warmstart.serving"
) -> None:
    """Add a route for each file (name, media type) of a package's folder `page`.

    They stand outside of the API's description.
    """

    def sender(content: bytes, kind: str) -> Callable[[], Awaitable[Response]]:
        async def send() -> Response:
            return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})

        return send

    folder = files(package) / "page"
    for path, (name, kind) in pages.items():
        send = sender(folder.joinpath(*name.split("/")).read_bytes(), kind)
        app.add_api_route(path, send, methods=["GET", "HEAD"], include_in_schema=False)


# ---- Requests and answers in the OpenAPI description.

Schema = dict[str, Any]


class Neighbour(BaseModel):
    """One of the most similar training images."""

    index: int = Field(description="position in data.json; see /examples/{index}/thumbnail")
    label: str


class LabelledAnswer(BaseModel):
    """The answer to one input, or `error` where it could not be read."""

    name: str
    label: str | None
    probability: float | None = Field(description="calibrated: of all 0.8, eight in ten are right")
    confident: bool | None = Field(description="null where no error rate is guaranteed")
    ood: bool = Field(description="out of distribution: unlike the training images")
    words: str
    scores: dict[str, float]
    nearest: list[Neighbour]
    error: str | None = None
    labels: list[str] | None = Field(None, description="predicted labels, of several")
    value: float | None = Field(None, description="the number, of a regression model")
    low: float | None = Field(None, description="90 % of true values are between low and high")
    high: float | None = None


class Answers(BaseModel):
    """One answer per input, in the order of the request."""

    answers: list[LabelledAnswer]


class HeatMap(BaseModel):
    """What mattered for the label."""

    label: str
    words: str
    grid: list[list[float]] = Field(description="rows from the top; 1: covering it changed most")
    box: list[float] = Field(
        min_length=4,
        max_length=4,
        description="the region of the picture under the grid: left, top, right, bottom",
    )


class Labels(BaseModel):
    """Class names in the order of the model's outputs."""

    labels: list[str]


class State(BaseModel):
    """Whether the server is alive, or ready."""

    status: str


class ProblemNote(BaseModel):
    """An error, as in RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    images: list[dict[str, str]] = []


_DESCRIPTIONS = {
    400: "malformed request",
    401: "a token is needed",
    403: "sent by a page of another host",
    404: "nothing here",
    408: "the body arrived too slowly",
    413: "too large",
    415: "content type not accepted",
    421: "meant for another host",
    422: "no readable input",
    500: "a bug; see the server's log",
    503: "overloaded; see Retry-After",
}
_HEADERS = {
    401: {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}},
    503: {"Retry-After": {"required": True, "schema": {"type": "integer"}}},
}
ALWAYS = (400, 403, 421, 500)
OF_A_BODY = (408, 413, 415, 422, 503)
FILE: Schema = {"type": "string", "format": "binary"}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemNote"}}}
    return {
        status: {"description": _DESCRIPTIONS[status], "content": content}
        | ({"headers": _HEADERS[status]} if status in _HEADERS else {})
        for status in statuses
    }


def body_of(kind: Kind, most: int) -> Schema:
    """The request body, of at most `most` inputs, of an operation."""
    names = (name.decode() for name in body_types(MODALITIES[kind]).types)
    content = {f"{name}*" if name.endswith("/") else name: FILE for name in names}
    content |= {name: {"type": "string"} for name in content if name.startswith("text/")}
    form = FILE if most == 1 else {"type": "array", "items": FILE, "minItems": 1}
    content |= {
        "multipart/form-data": {
            "type": "object",
            "properties": {"file": form},
            "required": ["file"],
        },
        "application/json": _json_schema(MODALITIES[kind].form, most),
    }
    schemas = {name: {"schema": schema} for name, schema in content.items()}
    return {"requestBody": {"required": True, "content": schemas}}


def _json_schema(form: Form, most: int) -> Schema:
    """`{"text": …}` or `{"texts": […]}`; one of the two. Texts also as a bare list."""
    cell = {"type": ["string", "number", "boolean", "null"]}
    row: Schema = {"type": "object", "additionalProperties": cell, "description": "cells by column"}
    file = {"type": "string", "description": "base64, or a data: URL of it"}
    name, one = {"texts": ("text", {"type": "string"}), "rows": ("row", row)}.get(
        form, ("image", file)
    )
    many = {"type": "array", "items": one, "minItems": 1, "maxItems": most}
    schema = {
        "type": "object",
        "properties": {name: one, f"{name}s": many},
        "oneOf": [{"required": [name]}, {"required": [f"{name}s"]}],
        "additionalProperties": False,
    }
    return {"anyOf": [schema, many]} if form == "texts" else schema


# ---- The application.

ABOUT = (
    'Send {many}, get classes with calibrated probabilities. An answer may also be "uncertain" or '
    '"unlike the training {many}". Errors are application/problem+json (RFC 9457).'
)


def make_app(served: ServedModel, access: Access, limits: ServerLimits | None = None) -> Gate:
    """An ASGI application for one model; it answers while its lifespan is open."""
    limits = limits or ServerLimits()
    metrics = Metrics()
    batcher: Batches = Batcher(served.answer, limits, metrics.count_batch)
    metrics.watch_queue(lambda: batcher.n_pending)
    # The network needs the cores more, and decoding a large picture takes 200 MB.
    pool = ThreadPoolExecutor(min(os.cpu_count() or 1, 4), thread_name_prefix="decode")
    # The description is public; with a token the model's name is not.
    title = "warmstart" if access.token else f"warmstart: {served.title}"
    app = FastAPI(
        title=title,
        version=__version__,
        description=ABOUT.format(many=MODALITIES[served.kind].nouns.many),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan(batcher, pool),
    )
    _add_routes(app, access, Routes(served, limits, batcher, pool, metrics), served.kind, limits)
    add_pages(app)
    answer_all_errors(app)
    _describe_problems(app)
    return Gate(app, access, metrics)


def _lifespan(batcher: Batches, pool: ThreadPoolExecutor) -> Callable[[FastAPI], Any]:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(batcher.run())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        batcher.close()
        pool.shutdown(wait=True, cancel_futures=True)

    return lifespan


def _add_routes(
    app: FastAPI, access: Access, routes: Routes, kind: Kind, limits: ServerLimits
) -> None:
    modality = MODALITIES[kind]
    nouns = modality.nouns

    def add(path: str, endpoint: Any, statuses: Sequence[int], **more: Any) -> None:
        is_closed = access.token is not None and path not in access.open_paths
        errors = [*ALWAYS, *([401] if is_closed else []), *statuses]
        app.add_api_route(
            path,
            endpoint,
            responses={**problems(*errors), **more.pop("responses", {})},
            dependencies=[Security(HTTPBearer(auto_error=False))] if is_closed else [],
            **more,
        )

    def ok(media_type: str, schema: dict[str, Any]) -> dict[int, Any]:
        return {200: {"content": {media_type: {"schema": schema}}}}

    add(
        "/predict",
        routes.predict,
        OF_A_BODY,
        methods=["POST"],
        response_model=Answers,
        openapi_extra=body_of(kind, limits.rows if modality.form == "rows" else limits.images),
        summary=f"Classify {nouns.many}",
    )
    add(
        "/explain",
        routes.explain,
        OF_A_BODY,
        methods=["POST"],
        response_model=HeatMap,
        openapi_extra=body_of(kind, 1),
        summary=f"Show what in {nouns.an} mattered",
    )
    add("/labels", routes.labels, (), response_model=Labels)
    add("/metadata", routes.metadata, (), responses=ok("application/json", {"type": "object"}))
    add("/health", routes.health, (), response_model=State)
    add("/ready", routes.ready, (503,), response_model=State)
    add("/metrics", routes.metrics, (), response_class=PlainTextResponse)
    add(
        "/examples/{index}/thumbnail",
        routes.thumbnail,
        (404, 422),
        response_class=Response,
        responses=ok("image/jpeg", FILE),
    )


def _describe_problems(app: FastAPI) -> None:
    """Add the schema of problems, which no route returns by its type."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schemas = plain().setdefault("components", {}).setdefault("schemas", {})
            schemas[ProblemNote.__name__] = ProblemNote.model_json_schema()
        return app.openapi_schema or plain()

    app.openapi = openapi  # type: ignore[method-assign]
