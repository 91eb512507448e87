"""The web application of a studio: its page, its routes, and who may ask."""

from __future__ import annotations

import asyncio
import hmac
import os
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path, PurePath
from typing import Annotated, Any, Literal, TypeVar

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from warmstart.errors import DataError, UsageError, WarmstartError
from warmstart.nouns import NOUNS
from warmstart.records.data import Split
from warmstart.serving.access import LOCAL, Access, Gate
from warmstart.serving.app import add_pages
from warmstart.serving.http import HttpProblem, answer_all_errors, as_response
from warmstart.serving.inputs import (
    IMAGES,
    Intake,
    Sent,
    Takes,
    check_unpacked,
    images_in,
    length_of,
)
from warmstart.serving.model import ServerLimits
from warmstart.studio import board as studio_board
from warmstart.studio.board import Board, BoardChange, labelled
from warmstart.studio.project import Arrived, Delta, Project
from warmstart.studio.sorting import SORTINGS
from warmstart.studio.work import Hub, Order, ProgressSeen, Told, Tools

# ---- What each route of a studio does: pictures, changes, learning, results.


# ---- Pictures that were sent: decoded before they are believed, kept, put under their class.


@dataclass(frozen=True, slots=True)
class Added:
    """What became of the pictures of one request, and what changed on the board."""

    told: Told
    delta: Delta | None


@dataclass(frozen=True, slots=True)
class Adding:
    """Takes pictures in. `see` decodes one; it is called from several threads."""

    project: Project
    see: Callable[[bytes, str], ProgressSeen | str]
    pool: ThreadPoolExecutor

    async def take(
        self, sent: Sequence[Sent], label: str, split: Split, batch: str, folder: str = ""
    ) -> Added:
        """Keep what can be read and is not there yet; the user's files lie in `folder`."""
        loop = asyncio.get_running_loop()
        works = [partial(self.see, one.payload, one.name) for one in sent]
        seen = await asyncio.gather(*(loop.run_in_executor(self.pool, work) for work in works))
        work = partial(self._kept, sent, seen, label, split, batch, folder)
        return await loop.run_in_executor(self.pool, work)

    def _kept(
        self,
        sent: Sequence[Sent],
        seen: Sequence[ProgressSeen | str],
        label: str,
        split: Split,
        batch: str,
        folder: str,
    ) -> Added:
        refused, known, ids = [], [], []
        with self.project.lock:
            for one, found in zip(sent, seen, strict=True):
                if isinstance(found, str):
                    refused.append({"name": one.name, "why": found})
                    continue
                there = next(iter(self.project.known(one.payload)), None)
                at = None if there is None else self.project.board.labels.get(there.id)
                if there is not None and (at is not None or there.id in ids):
                    known.append({"name": one.name, "id": there.id, "label": at or label})
                    continue
                if there is not None and there.split != split:
                    self.project.set_split(there.id, split)
                ids.append(there.id if there is not None else self._keep(one, found, split, folder))
            delta = self._put(ids, label, batch) if ids else None
        return Added({"added": ids, "known": known, "refused": refused}, delta)

    def _put(self, ids: Sequence[str], label: str, batch: str) -> Delta:
        return self.project.change(lambda board: replace(labelled(board, ids, label), batch=batch))

    def _keep(self, one: Sent, found: ProgressSeen, split: Split, folder: str) -> str:
        arrived = Arrived(
            name=one.name,
            payload=one.payload,
            suffix=found.suffix,
            width=found.width,
            height=found.height,
            split=split,
            source=_path_in(folder, one.name),
        )
        (picture,) = self.project.keep([arrived])
        self.project.keep_small(picture.id, found.small)
        return picture.id


def _path_in(folder: str, name: str) -> str:
    """The path of a file in a folder that a page names: nothing that leads out of it.

    >>> _path_in("train/cat", "1.jpg"), _path_in("../\\x00/cat", "1.jpg"), _path_in("", "1.jpg")
    ('train/cat/1.jpg', 'cat/1.jpg', '1.jpg')
    """
    steps = ("".join(filter(str.isprintable, step)) for step in folder.split("/"))
    return "/".join([*(step for step in steps if step not in ("", ".", "..")), name])


# ---- What the page's choosers of files offer.


def taken(files: Iterable[str]) -> str:
    """What choosers of files offer beside these, which are pictures or clips; both beside none.

    >>> taken(["a.jpg"]), taken(["a.wav"]).split(",")[0], taken([]).split(",")[:2]
    ('image/*', 'audio/*', ['image/*', 'audio/*'])
    """
    of = {kind: NOUNS[kind].accept for kind in ("image", "audio")}
    are_clips = {PurePath(file).suffix in of["audio"].split(",") for file in files}
    kinds = ["audio" if is_clip else "image" for is_clip in sorted(are_clips)]
    return ",".join(of[kind] for kind in kinds or of)


# ---- What the page may send, checked before anything is done with it.


MOST_IDS = 100_000
Ids = Annotated[list[Annotated[str, Field(max_length=40)]], Field(max_length=MOST_IDS)]


class LabelRequest(BaseModel):
    """Pictures and the class they get; null takes them off the board.

    `on`: where a picture may have several labels, this one is given to them, or taken away.
    """

    model_config = ConfigDict(extra="forbid")
    ids: Ids
    label: str | None
    on: bool | None = None


class Keeping(BaseModel):
    """Pictures whose labels were looked at and are right."""

    model_config = ConfigDict(extra="forbid")
    ids: Ids


class ClassNames(BaseModel):
    """One of: a class to add, to rename (old, new), to remove."""

    model_config = ConfigDict(extra="forbid")
    add: str | None = None
    rename: tuple[str, str] | None = None
    remove: str | None = None


class Learning(BaseModel):
    """How to learn: the budget, and values of the plan as path=value."""

    model_config = ConfigDict(extra="forbid")
    budget: Literal["fast", "balanced", "thorough"] = "fast"
    settings: list[Annotated[str, Field(max_length=1000)]] = Field(default=[], max_length=200)


Done = TypeVar("Done")
TAKEN = {
    "model.zip": "application/zip",
    "model-onnx.zip": "application/zip",
    "report.html": "text/html",
    "labels.csv": "text/csv",
}
KEPT = {"Cache-Control": "private, max-age=31536000, immutable"}  # an id names its bytes
AT_WORK = ("working", "stopping")


class Studio:
    """The routes' work. What takes time is done in threads, one at a time for the network."""

    def __init__(self, project: Project, tools: Tools, hub: Hub) -> None:
        self._project = project
        self._tools = tools
        self._hub = hub
        self._limits = ServerLimits(images=33)
        self._intake = Intake(self._limits)
        self._many = ThreadPoolExecutor(min(os.cpu_count() or 1, 4), thread_name_prefix="see")
        self._one = ThreadPoolExecutor(1, thread_name_prefix="ask")
        self._forecasts = 0
        self._adding = Adding(project, tools.see, self._many)

    # ---- telling ---------------------------------------------------------------------------

    def board(self) -> dict[str, Any]:
        """All that the page shows of pictures and work."""
        project = self._project
        with project.lock:
            labels, found = project.board.labels, project.pictures
            shown = [{**asdict(found[id]), "label": label} for id, label in labels.items()]
            history = project.history
            return {
                "name": project.about.name,
                "task": project.task,
                "place": str(project.path),
                "version": history.version,
                "classes": project.board.classes,
                "pictures": shown,
                "kept": project.board.kept,
                "accept": taken(found[id].file for id in labels),
                "undo": history.undo_words,
                "redo": history.redo_words,
                "problem": studio_board.learnable(project.board, found),
                "work": asdict(self._tools.working()),
                "result": self._newest(),
            }

    def _newest(self, with_model: bool = False) -> int | None:
        """The number of the newest finished run, or of the newest that shipped a model."""
        for number in reversed(self._project.numbers()):
            run = self._project.run(number)
            if (run / "DONE").exists() and (not with_model or (run / "model").is_dir()):
                return number
        return None

    def events(self) -> StreamingResponse:
        """What changes from now on."""
        return StreamingResponse(self._hub.stream(), media_type="text/event-stream")

    async def thumbnail(self, id: str) -> Response:
        """A small JPEG of a picture."""
        found = await self._apart(self._many, partial(self._small, id))
        return Response(found, media_type="image/jpeg", headers=KEPT)

    def _small(self, id: str) -> bytes:
        picture = self._project.pictures.get(id)
        if picture is None:
            raise HttpProblem(404, "there is no such picture")
        place = self._project.small(id)
        if not place.exists():
            try:
                payload = self._project.place_of(id).read_bytes()
                made = self._tools.small(payload, picture.name)
            except (DataError, OSError):
                raise HttpProblem(404, f"{picture.name} cannot be read any more") from None
            self._project.keep_small(id, made)
        return place.read_bytes()

    def picture(self, id: str) -> FileResponse:
        """A picture as it was given."""
        if id not in self._project.pictures:
            raise HttpProblem(404, "there is no such picture")
        place = self._project.place_of(id)
        if not place.is_file():
            raise HttpProblem(404, f"{self._project.pictures[id].name} is gone from the folder")
        return FileResponse(place, headers=KEPT)

    # ---- changing --------------------------------------------------------------------------

    async def add(
        self,
        request: Request,
        label: str,
        batch: Annotated[str, Query(max_length=64)] = "",
        split: Split = "train",
        folder: Annotated[str, Query(max_length=4096)] = "",
    ) -> dict[str, Any]:
        """Take pictures in under a class; those of one batch are taken back together.

        `folder`: where the user's own files lie in what they gave, for the table of labels.
        """
        async with self._intake.body(request, IMAGES) as body:
            sent = await self._sent(request, body)
            added = await self._adding.take(sent, self._checked(label), split, batch, folder)
        if added.delta is not None:
            self._hub.tell_board(added.delta)
        return {"version": self._project.history.version, **added.told}

    def _checked(self, label: str) -> str:
        return SORTINGS[self._project.task].checked(label)

    def label(self, asked: LabelRequest) -> dict[str, int]:
        """Give pictures a class, or take them off."""
        strangers = [id for id in asked.ids if id not in self._project.pictures]
        if strangers:
            raise HttpProblem(422, f"there is no picture {strangers[0][:40]}")
        return self._told(self._project.change(partial(_labelled, asked)))

    def keep(self, asked: Keeping) -> dict[str, int]:
        """Note that labels are right."""
        return self._told(
            self._project.change(lambda board: studio_board.looked_at(board, asked.ids))
        )

    def classes(self, asked: ClassNames) -> dict[str, int]:
        """Add, rename or remove a class."""
        return self._told(self._project.change(partial(_of_classes, asked)))

    def undo(self) -> dict[str, int]:
        """Take the latest step back."""
        return self._told(self._project.undo())

    def redo(self) -> dict[str, int]:
        """Do it again."""
        return self._told(self._project.redo())

    def _told(self, delta: Delta | None) -> dict[str, int]:
        if delta is None:
            raise HttpProblem(409, "there is nothing to take back, or to do again")
        self._hub.tell_board(delta)
        return {"version": delta.version}

    # ---- learning --------------------------------------------------------------------------

    async def forecast(
        self, budget: str = "balanced", settings: Annotated[list[str] | None, Query()] = None
    ) -> Any:
        """What a learning would take. Of several that are asked for, only the newest is found."""
        asked = Learning.model_validate({"budget": budget, "settings": settings or []})
        self._forecasts += 1
        mine = self._forecasts

        def find() -> dict[str, Any]:
            if mine != self._forecasts:
                raise HttpProblem(409, "another forecast was asked for meanwhile")
            self._check_learnable()
            return self._tools.forecast(self._order(asked, *self._project.draft_table()))

        return await self._apart(self._one, find)

    def fit(self, asked: Learning) -> JSONResponse:
        """Begin to learn."""
        self._check_learnable()
        if self._tools.working().state in AT_WORK:
            raise HttpProblem(409, "it is learning already; stop it first, or wait for its end")
        number, table = self._project.write_table()
        self._tools.fit(self._order(asked, number, table))
        return JSONResponse({"number": number}, 202)

    def _order(self, asked: Learning, number: int, table: Path) -> Order:
        return Order(
            number=number,
            table=table,
            out=self._project.run(number),
            budget=asked.budget,
            settings=tuple(asked.settings),
        )

    def _check_learnable(self) -> None:
        why = studio_board.learnable(self._project.board, self._project.pictures)
        if why:
            raise HttpProblem(422, why)

    def stop(self) -> dict[str, str]:
        """End what is at work; it can be gone on with."""
        self._tools.stop()
        return {"state": self._tools.working().state}

    def resume(self) -> dict[str, str]:
        """Go on with what was stopped."""
        self._tools.resume()
        return {"state": self._tools.working().state}

    # ---- results ---------------------------------------------------------------------------

    async def result(self) -> Any:
        """The newest finished run."""
        number = self._finished()
        return await self._apart(self._many, lambda: self._tools.result(number))

    def _finished(self) -> int:
        number = self._newest()
        if number is None:
            raise HttpProblem(404, "nothing was learnt yet")
        return number

    def _model(self) -> int:
        number = self._newest(with_model=True)
        if number is None:
            raise HttpProblem(409, "there is no model yet; let it learn first")
        return number

    async def answer(self, request: Request) -> Any:
        """What the newest model says of a picture."""
        number = self._model()
        async with self._intake.body(request, IMAGES) as body:
            one = (await self._sent(request, body))[0]
            return await self._apart(
                self._one, lambda: self._tools.answer(number, one.payload, one.name)
            )

    async def take(self, name: str) -> FileResponse:
        """A file to take home."""
        if name not in TAKEN:
            raise HttpProblem(404, f"there is no {name[:40]}; there are {', '.join(TAKEN)}")
        numbers = {"labels.csv": lambda: 0, "report.html": self._finished}
        number = numbers.get(name, self._model)()
        path = await self._apart(self._many, lambda: self._tools.take(number, name))
        title = f"{self._project.about.name}-{name}"
        return FileResponse(path, media_type=TAKEN[name], filename=title)

    async def take_onnx(self) -> dict[str, str]:
        """Write the model as ONNX."""
        number = self._model()
        await self._apart(self._many, lambda: self._tools.take(number, "model-onnx.zip"))
        return {"path": "/api/take/model-onnx.zip"}

    async def _sent(self, request: Request, body: bytes) -> list[Sent]:
        kind = request.headers.get("content-type", "")
        return await self._apart(self._many, lambda: images_in(kind, body, self._limits))

    async def _apart(self, pool: ThreadPoolExecutor, work: Callable[[], Done]) -> Done:
        return await asyncio.get_running_loop().run_in_executor(pool, work)


def _labelled(asked: LabelRequest, board: Board) -> BoardChange:
    """Raises: UsageError for a label that is none, or is given where there is one alone."""
    if asked.on is None or asked.label is None:
        return studio_board.labelled(board, asked.ids, asked.label)
    return studio_board.marked(board, asked.ids, asked.label, asked.on)


def _of_classes(asked: ClassNames, board: Board) -> BoardChange:
    """Raises: UsageError where nothing, or what is not possible, was asked for."""
    if asked.add is not None:
        return studio_board.with_class(board, asked.add)
    if asked.rename is not None:
        return studio_board.renamed(board, *asked.rename)
    if asked.remove is not None:
        return studio_board.without_class(board, asked.remove)
    raise UsageError("say which class to add, rename or remove.")


# ---- JSON bodies are read whole before anyone looks at them: they must be JSON, and not large.


MOST = 4 * 2**20  # bytes: 100,000 ids
JSON = Takes((b"application/json",), "send application/json")


class Bounded:
    """Refuses by their head alone bodies that are no JSON, too large, or tell no length.

    `free` are the addresses whose own work bounds what it reads.
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
    if not is_chunked and (length is None or length_of(length) == 0):
        return
    JSON.kind_of(headers.get("content-type", ""))
    check_unpacked(headers.get("content-encoding"))
    if is_chunked or length is None:
        raise HttpProblem(411, "send Content-Length")
    if length_of(length) > MOST:
        raise HttpProblem(413, f"the body is larger than {MOST / 1e6:.0f} MB")


# ---- What opens a studio.


@dataclass(frozen=True, slots=True)
class Keys:
    """`entry` stands in the address that is printed, `session` in the cookie it is changed for.

    A browser sends a cookie to every port of a host: what another program on this computer may
    so come to see opens nothing once this server has ended, and never was in an address.
    """

    entry: str
    session: str


# ---- The way in: the address that the terminal prints is exchanged for a cookie.


LASTS_S = 30 * 86400  # that a browser keeps the cookie; the server ends sooner


def enter(keys: Keys, cookie: str, page: str) -> Callable[[str | None], Awaitable[Response]]:
    """The route of the page. With the right token it sets the cookie, which no script can read
    and no other site's page can use, and takes the token out of the address."""
    content = (files("warmstart.serving") / "page" / page).read_bytes()

    async def send(token: str | None = None) -> Response:
        if token is None:
            return Response(content, media_type="text/html", headers={"Cache-Control": "no-cache"})
        found = RedirectResponse("/", 303)
        if hmac.compare_digest(token.encode(), wanted):
            found.set_cookie(
                cookie, keys.session, LASTS_S, httponly=True, samesite="strict", path="/"
            )
        return found

    wanted = keys.entry.encode()
    return send


PICTURES = frozenset(("/api/pictures", "/api/try"))  # whose bodies are read piece by piece
Routes = dict[str, Callable[..., Any]]


def make_app(project: Project, tools: Tools, hub: Hub, keys: Keys, port: int) -> Gate:
    """The ASGI application of a project; `keys` open it."""
    pages = _pages()
    cookie = f"studio-{port}"  # browsers share cookies among the ports of a host
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.add_api_route("/", enter(keys, cookie, pages.pop("/")[0]), methods=["GET", "HEAD"])
    add_pages(app, pages)
    _add_routes(app, Studio(project, tools, hub))
    answer_all_errors(app)
    app.add_middleware(Bounded, free=PICTURES)
    app.add_exception_handler(WarmstartError, _refused)
    app.add_exception_handler(ValidationError, _refused)
    access = Access(
        hosts=LOCAL,
        token=keys.session,
        cookie=cookie,
        is_strict=True,
        open_paths=frozenset({"/", *pages}),
    )
    return Gate(app, access)


def _pages() -> dict[str, tuple[str, str]]:
    """The page's files by their addresses."""
    folder = files("warmstart.serving") / "page"
    modules = sorted(one.name for one in (folder / "studio").iterdir() if one.name.endswith(".js"))
    script = "text/javascript"
    return {
        "/": ("studio.html", "text/html"),
        "/studio.css": ("studio.css", "text/css"),
        "/studio.js": ("studio.js", script),
        "/faults.js": ("faults.js", script),
        "/icon.svg": ("icon.svg", "image/svg+xml"),
        **{f"/studio/{name}": (f"studio/{name}", script) for name in modules},
    }


def _add_routes(app: FastAPI, studio: Studio) -> None:
    told: Routes = {
        "board": studio.board,
        "events": studio.events,
        "thumbnails/{id}": studio.thumbnail,
        "pictures/{id}": studio.picture,
        "forecast": studio.forecast,
        "result": studio.result,
        "take/{name}": studio.take,
    }
    done: Routes = {
        "pictures": studio.add,
        "label": studio.label,
        "keep": studio.keep,
        "classes": studio.classes,
        "undo": studio.undo,
        "redo": studio.redo,
        "fit": studio.fit,
        "stop": studio.stop,
        "resume": studio.resume,
        "try": studio.answer,
        "take/onnx": studio.take_onnx,
    }
    for method, routes in (("GET", told), ("POST", done)):
        for path, work in routes.items():
            app.add_api_route(f"/api/{path}", work, methods=[method], response_model=None)


def _refused(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, ValidationError):
        return as_response(HttpProblem(422, error.errors()[0]["msg"]))
    return as_response(HttpProblem(422, str(error)))
