"""The web application of a studio: its page, routes and access."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Mapping,
    Sequence,
)
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from importlib.resources import files
from pathlib import PurePath
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, StreamingResponse
from pydantic import Field, ValidationError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from warmstart.errors import DataError, UsageError, WarmstartError
from warmstart.modalities.registry import MODALITIES
from warmstart.records.data import Split
from warmstart.serving.access import LOCAL, Access, Gate
from warmstart.serving.app import FILES, add_pages
from warmstart.serving.http import HttpProblem, answer_all_errors, as_response
from warmstart.serving.inputs import (
    BodyReader,
    BodyTypes,
    StrictBody,
    Upload,
    body_types,
    check_encoding,
    parse_length,
    read_files,
)
from warmstart.serving.model import ServerLimits
from warmstart.tasks.registry import TASKS
from warmstart_studio import board as studio_board
from warmstart_studio.board import Board, BoardChange, set_label
from warmstart_studio.project import Delta, NewPicture, Project, decode_picture, thumbnail
from warmstart_studio.result import result_of
from warmstart_studio.studio import RUNNING, StudioWork, Working

# ---- Server-sent events to every open page.

QUEUE = 200  # events that a page may be behind; then its stream ends, and it reloads
ALIVE_S = 15.0  # between two keep-alive comments


class Hub:
    """Sends events from any thread to the streams of all pages."""

    def __init__(self) -> None:
        self._streams: set[asyncio.Queue[str | None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def send_board(self, delta: Delta) -> None:
        self._send("board", asdict(delta))

    def send_working(self, working: Working) -> None:
        self._send("work", asdict(working))

    def send_result(self, number: int) -> None:
        self._send("result", {"number": number})

    async def stream(self) -> AsyncIterator[str]:
        """The events of one page from now on, as text/event-stream."""
        self._loop = asyncio.get_running_loop()
        queue: asyncio.Queue[str | None] = asyncio.Queue(QUEUE)
        self._streams.add(queue)
        try:
            yield "retry: 1000\n\n"
            while True:
                try:
                    text = await asyncio.wait_for(queue.get(), ALIVE_S)
                except TimeoutError:
                    text = ": alive\n\n"
                if text is None:
                    return
                yield text
        finally:
            self._streams.discard(queue)

    def close(self) -> None:
        """End all streams."""
        self._put_soon(None)

    def _send(self, name: str, values: dict[str, Any]) -> None:
        self._put_soon(f"event: {name}\ndata: {json.dumps(values, ensure_ascii=False)}\n\n")

    def _put_soon(self, text: str | None) -> None:
        loop = self._loop  # None before the first page
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._put, text)

    def _put(self, text: str | None) -> None:
        for queue in list(self._streams):
            if queue.full():
                while not queue.empty():
                    queue.get_nowait()
                text = None
            queue.put_nowait(text)


# ---- Request bodies and parameters.


def _path_in(folder: str, name: str) -> str:
    """The path of a file in a folder that a page names, without steps that lead out of it.

    >>> _path_in("train/cat", "1.jpg"), _path_in("../\\x00/cat", "1.jpg"), _path_in("", "1.jpg")
    ('train/cat/1.jpg', 'cat/1.jpg', '1.jpg')
    """
    steps = ("".join(filter(str.isprintable, step)) for step in folder.split("/"))
    return "/".join([*(step for step in steps if step not in ("", ".", "..")), name])


def accepted_types(files: Iterable[str]) -> str:
    """The `accept` of file choosers beside these pictures or clips; both kinds beside none.

    >>> [accepted_types(files).split(",")[:2] for files in (["a.jpg"], ["a.wav"], [])]
    [['image/*'], ['audio/*', '.wav'], ['image/*', 'audio/*']]
    """
    images, clips = MODALITIES["image"].nouns.accept, MODALITIES["audio"].nouns.accept
    are_clips = {PurePath(file).suffix in clips.split(",") for file in files}
    accepted = [clips if is_clip else images for is_clip in sorted(are_clips)]
    return ",".join(accepted or (images, clips))


Ids = Annotated[list[Annotated[str, Field(max_length=40)]], Field(max_length=100_000)]


class LabelRequest(StrictBody):
    """Pictures and their class; null takes them off the board.

    `on`: of several labels, add this one or remove it.
    """

    ids: Ids
    label: str | None
    on: bool | None = None


class ConfirmRequest(StrictBody):
    """Pictures whose labels are confirmed."""

    ids: Ids


class ClassRequest(StrictBody):
    """One of: a class to add, to rename (old, new), to remove."""

    add: str | None = None
    rename: tuple[str, str] | None = None
    remove: str | None = None


class FitRequest(StrictBody):
    """How to fit: the budget, and values of the plan as path=value."""

    budget: Literal["fast", "balanced", "thorough"] = "fast"
    settings: list[Annotated[str, Field(max_length=1000)]] = Field(default=[], max_length=200)


Output = TypeVar("Output")
DOWNLOADS = {
    "model.zip": "application/zip",
    "model-onnx.zip": "application/zip",
    "report.html": "text/html",
    "labels.csv": "text/csv",
}
IMMUTABLE = {"Cache-Control": "private, max-age=31536000, immutable"}  # an id is a hash of bytes


class Studio:
    """The routes. Slow work runs in threads, the network in one."""

    def __init__(self, project: Project, work: StudioWork, hub: Hub) -> None:
        self._project = project
        self._work = work
        self._hub = hub
        self._limits = ServerLimits(images=33)
        self._bodies = BodyReader(self._limits)
        self._many = ThreadPoolExecutor(min(os.cpu_count() or 1, 4), thread_name_prefix="decode")
        self._one = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._forecasts = 0

    def board(self) -> dict[str, Any]:
        project = self._project
        with project.lock:
            labels, pictures, history = project.board.labels, project.pictures, project.history
            rows = [{**asdict(pictures[id]), "label": label} for id, label in labels.items()]
            return {
                "name": project.about.name,
                "task": project.task,
                "path": str(project.path),
                "version": history.version,
                "classes": project.board.classes,
                "pictures": rows,
                "confirmed": project.board.confirmed,
                "accept": accepted_types(pictures[id].file for id in labels),
                "undo": history.undo_words,
                "redo": history.redo_words,
                "problem": studio_board.problem_of(project.board, pictures),
                "work": asdict(self._work.worker.status()),
                "result": self._newest(),
            }

    def _newest(self, with_model: bool = False) -> int | None:
        """The number of the newest finished run, or the newest with a model."""
        for number in reversed(self._project.numbers()):
            run = self._project.run(number)
            if (run / "DONE").exists() and (not with_model or (run / "model").is_dir()):
                return number
        return None

    def events(self) -> StreamingResponse:
        return StreamingResponse(self._hub.stream(), media_type="text/event-stream")

    async def thumbnail(self, id: str) -> Response:
        jpeg = await self._in_pool(self._many, partial(self._read_thumbnail, id))
        return Response(jpeg, media_type="image/jpeg", headers=IMMUTABLE)

    def _read_thumbnail(self, id: str) -> bytes:
        picture = self._project.pictures.get(id)
        if picture is None:
            raise HttpProblem(404, "there is no such picture")
        path = self._project.thumbnail_path(id)
        if not path.exists():
            try:
                payload = self._project.picture_path(id).read_bytes()
                jpeg = thumbnail(payload, picture.name)
            except (DataError, OSError):
                raise HttpProblem(404, f"{picture.name} can no longer be read") from None
            self._project.write_thumbnail(id, jpeg)
        return path.read_bytes()

    def picture(self, id: str) -> FileResponse:
        if id not in self._project.pictures:
            raise HttpProblem(404, "there is no such picture")
        path = self._project.picture_path(id)
        if not path.is_file():
            raise HttpProblem(404, f"{self._project.pictures[id].name} is missing from the folder")
        return FileResponse(path, headers=IMMUTABLE)

    # ---- Changes.
    async def add(
        self,
        request: Request,
        label: str,
        batch: Annotated[str, Query(max_length=64)] = "",
        split: Split = "train",
        folder: Annotated[str, Query(max_length=4096)] = "",
    ) -> dict[str, Any]:
        """Add pictures to a class; those of one batch are undone together.

        `folder`: that of the user's files in their data, for the table of labels.
        """
        async with self._bodies.body(request, body_types(MODALITIES["image"])) as body:
            uploads = await self._read_uploads(request, body)
            label = TASKS[self._project.task].typed(label)
            jobs = [partial(decode_picture, one.payload, one.name) for one in uploads]
            decoded = await asyncio.gather(*(self._in_pool(self._many, job) for job in jobs))
            refused, pictures = [], list[tuple[NewPicture, bytes]]()
            for upload, result in zip(uploads, decoded, strict=True):
                if isinstance(result, str):
                    refused.append({"name": upload.name, "why": result})
                else:
                    source = _path_in(folder, upload.name)
                    pictures.append((replace(result[0], split=split, source=source), result[1]))
            store = partial(self._store, pictures, label, batch)
            content, delta = await self._in_pool(self._many, store)
        if delta is not None:
            self._hub.send_board(delta)
        version = self._project.history.version
        return {"version": version, **content, "refused": refused}

    def _store(
        self, pictures: Sequence[tuple[NewPicture, bytes]], label: str, batch: str
    ) -> tuple[dict[str, Any], Delta | None]:
        """Store pictures and their thumbnails; returns which are new or known, and the change."""
        project, known, ids, delta = self._project, [], list[str](), None
        with project.lock:
            for new, jpeg in pictures:
                picture = next(iter(project.find(new.payload)), None)
                if picture is None:
                    (picture,) = project.add([new])
                    project.write_thumbnail(picture.id, jpeg)
                present = project.board.labels.get(picture.id)
                if present is not None or picture.id in ids:
                    known.append({"name": new.name, "id": picture.id, "label": present or label})
                    continue
                if picture.split != new.split:
                    project.set_split(picture.id, new.split)
                ids.append(picture.id)
            if ids:
                delta = project.change(
                    lambda board: replace(set_label(board, ids, label), batch=batch)
                )
        return {"added": ids, "known": known}, delta

    def label(self, request: LabelRequest) -> dict[str, int]:
        """Give pictures a class, or take them off the board."""
        unknown = [id for id in request.ids if id not in self._project.pictures]
        if unknown:
            raise HttpProblem(422, f"there is no picture {unknown[0][:40]}")

        def change(board: Board) -> BoardChange:
            if request.on is None or request.label is None:
                return studio_board.set_label(board, request.ids, request.label)
            return studio_board.toggle_label(board, request.ids, request.label, request.on)

        return self._publish(self._project.change(change))

    def confirm(self, request: ConfirmRequest) -> dict[str, int]:
        confirm = partial(studio_board.confirm_labels, ids=request.ids)
        return self._publish(self._project.change(confirm))

    def classes(self, request: ClassRequest) -> dict[str, int]:
        """Add, rename or remove a class."""

        def change(board: Board) -> BoardChange:
            if request.add is not None:
                return studio_board.add_class(board, request.add)
            if request.rename is not None:
                return studio_board.rename_class(board, *request.rename)
            if request.remove is not None:
                return studio_board.remove_class(board, request.remove)
            raise UsageError("say which class to add, rename or remove.")

        return self._publish(self._project.change(change))

    def undo(self) -> dict[str, int]:
        return self._publish(self._project.undo())

    def redo(self) -> dict[str, int]:
        return self._publish(self._project.redo())

    def _publish(self, delta: Delta | None) -> dict[str, int]:
        if delta is None:
            raise HttpProblem(409, "there is nothing to undo or redo")
        self._hub.send_board(delta)
        return {"version": delta.version}

    # ---- Runs.
    async def forecast(
        self, budget: str = "balanced", settings: Annotated[list[str] | None, Query()] = None
    ) -> Any:
        """The forecast of a run. Of several requests only the newest is answered."""
        request = FitRequest.model_validate({"budget": budget, "settings": settings or []})
        self._forecasts += 1
        number = self._forecasts

        def forecast() -> dict[str, Any]:
            if number != self._forecasts:
                raise HttpProblem(409, "a newer forecast was requested")
            self._check_board()
            table = self._project.write_draft()
            return self._work.forecast(table, request.budget, request.settings)

        return await self._in_pool(self._one, forecast)

    def fit(self, request: FitRequest) -> JSONResponse:
        self._check_board()
        if self._work.worker.status().state in RUNNING:
            raise HttpProblem(409, "a run is in progress; stop it first, or wait for its end")
        number, table = self._project.write_table()
        self._work.begin(number, table, request.budget, request.settings)
        return JSONResponse({"number": number}, 202)

    def _check_board(self) -> None:
        why = studio_board.problem_of(self._project.board, self._project.pictures)
        if why:
            raise HttpProblem(422, why)

    def stop(self) -> dict[str, str]:
        self._work.worker.stop()
        return {"state": self._work.worker.status().state}

    def resume(self) -> dict[str, str]:
        self._work.resume()
        return {"state": self._work.worker.status().state}

    # ---- Results.

    async def result(self) -> Any:
        number = self._finished()
        return await self._in_pool(self._many, lambda: result_of(self._project, number))

    def _finished(self) -> int:
        number = self._newest()
        if number is None:
            raise HttpProblem(404, "there is no finished run yet")
        return number

    def _model(self) -> int:
        number = self._newest(with_model=True)
        if number is None:
            raise HttpProblem(409, "there is no model yet; train one first")
        return number

    async def predict(self, request: Request) -> Any:
        """The newest model's answer to a picture."""
        number = self._model()
        async with self._bodies.body(request, body_types(MODALITIES["image"])) as body:
            one = (await self._read_uploads(request, body))[0]
            answer = partial(self._work.answer, number, one.payload, one.name)
            return await self._in_pool(self._one, answer)

    async def download(self, name: str) -> FileResponse:
        if name not in DOWNLOADS:
            raise HttpProblem(404, f"there is no {name[:40]}; there are {', '.join(DOWNLOADS)}")
        numbers = {"labels.csv": lambda: 0, "report.html": self._finished}
        number = numbers.get(name, self._model)()
        path = await self._in_pool(self._many, partial(self._work.download, number, name))
        title = f"{self._project.about.name}-{name}"
        return FileResponse(path, media_type=DOWNLOADS[name], filename=title)

    async def write_onnx(self) -> dict[str, str]:
        write = partial(self._work.download, self._model(), "model-onnx.zip")
        await self._in_pool(self._many, write)
        return {"path": "/api/downloads/model-onnx.zip"}

    async def _read_uploads(self, request: Request, body: bytes) -> list[Upload]:
        kind = request.headers.get("content-type", "")
        return await self._in_pool(self._many, lambda: read_files(kind, body, self._limits))

    async def _in_pool(self, pool: ThreadPoolExecutor, job: Callable[[], Output]) -> Output:
        return await asyncio.get_running_loop().run_in_executor(pool, job)


# ---- JSON bodies are bounded by their head.
MOST = 4 * 2**20  # bytes: 100,000 ids
JSON = BodyTypes((b"application/json",), "send application/json")


class BodyLimit:
    """Refuses bodies that are not JSON, too large, or without a length.

    `free` are the paths whose routes bound their bodies themselves.
    """

    def __init__(self, app: ASGIApp, free: Collection[str]) -> None:
        self.app = app
        self._free = free

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        try:
            if scope["type"] == "http" and scope["path"] not in self._free:
                _check(Headers(scope=scope))
        except HttpProblem as problem:
            await as_response(problem)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def _check(headers: Mapping[str, str]) -> None:
    """Raises: Problem 400, 411, 413, 415."""
    length, is_chunked = headers.get("content-length"), "transfer-encoding" in headers
    if not is_chunked and (length is None or parse_length(length) == 0):
        return
    JSON.parse(headers.get("content-type", ""))
    check_encoding(headers.get("content-encoding"))
    if is_chunked or length is None:
        raise HttpProblem(411, "send Content-Length")
    if parse_length(length) > MOST:
        raise HttpProblem(413, f"the body is larger than {MOST / 1e6:.0f} MB")


# ---- Access: the token in the printed address is exchanged for a cookie.


class Keys(NamedTuple):
    """`entry` is in the printed address, `session` in the cookie that replaces it.

    A browser sends a cookie to every port of a host: another program on this computer may see
    `session`, which is useless once this server has ended, and never in an address.
    """

    entry: str
    session: str


COOKIE_S = 30 * 86400  # lifetime of the cookie; the server ends sooner


def entry_route(keys: Keys, cookie: str, page: str) -> Callable[[str | None], Awaitable[Response]]:
    """The route of the page. With the right token it sets the cookie, which no script can read
    and no other site's page can use, and removes the token from the address."""
    content = (files("warmstart_studio") / "page" / page).read_bytes()

    async def send(token: str | None = None) -> Response:
        if token is None:
            return Response(content, media_type="text/html", headers={"Cache-Control": "no-cache"})
        response = RedirectResponse("/", 303)
        if hmac.compare_digest(token.encode(), keys.entry.encode()):
            options: dict[str, Any] = {"httponly": True, "samesite": "strict", "path": "/"}
            response.set_cookie(cookie, keys.session, COOKIE_S, **options)
        return response

    return send


SHARED_FILES = {path: FILES[path] for path in ("/script_errors.js", "/icon.svg")}
PICTURES = frozenset(("/api/pictures", "/api/predict"))  # whose bodies are read in chunks
Routes = dict[str, Callable[..., Any]]


def make_app(project: Project, work: StudioWork, hub: Hub, keys: Keys, port: int) -> Gate:
    """The ASGI application of a project."""
    pages = _pages()
    cookie = f"studio-{port}"  # browsers share cookies among the ports of a host
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_api_route("/", entry_route(keys, cookie, pages.pop("/")[0]), methods=["GET", "HEAD"])
    add_pages(app, pages, "warmstart_studio")
    add_pages(app, SHARED_FILES)
    _add_routes(app, Studio(project, work, hub))
    answer_all_errors(app)
    app.add_middleware(BodyLimit, free=PICTURES)
    app.add_exception_handler(WarmstartError, _answer_error)
    app.add_exception_handler(ValidationError, _answer_error)
    access = Access(
        hosts=LOCAL,
        token=keys.session,
        cookie=cookie,
        is_strict=True,
        open_paths=frozenset({"/", *pages, *SHARED_FILES}),
    )
    return Gate(app, access)


def _pages() -> dict[str, tuple[str, str]]:
    """The page's own files by path."""
    folder = files("warmstart_studio") / "page"
    modules = sorted(one.name for one in (folder / "studio").iterdir() if one.name.endswith(".js"))
    script = "text/javascript"
    return {
        "/": ("studio.html", "text/html"),
        "/studio.css": ("studio.css", "text/css"),
        "/studio.js": ("studio.js", script),
        **{f"/studio/{name}": (f"studio/{name}", script) for name in modules},
    }


def _add_routes(app: FastAPI, studio: Studio) -> None:
    get: Routes = {
        "board": studio.board,
        "events": studio.events,
        "thumbnails/{id}": studio.thumbnail,
        "pictures/{id}": studio.picture,
        "forecast": studio.forecast,
        "result": studio.result,
        "downloads/{name}": studio.download,
    }
    post: Routes = {
        "pictures": studio.add,
        "label": studio.label,
        "confirm": studio.confirm,
        "classes": studio.classes,
        "undo": studio.undo,
        "redo": studio.redo,
        "fit": studio.fit,
        "stop": studio.stop,
        "resume": studio.resume,
        "predict": studio.predict,
        "downloads/onnx": studio.write_onnx,
    }
    for method, routes in (("GET", get), ("POST", post)):
        for path, route in routes.items():
            app.add_api_route(f"/api/{path}", route, methods=[method], response_model=None)


def _answer_error(request: Request, error: Exception) -> JSONResponse:
    detail = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
    return as_response(HttpProblem(422, detail))
