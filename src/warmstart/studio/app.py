"""The web application of a studio: its page, its routes, and who may ask."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from warmstart.errors import WarmstartError
from warmstart.serving.access import LOCAL, Access, Gate
from warmstart.serving.app import add_pages
from warmstart.serving.http import Problem, answer_all_errors, as_response
from warmstart.serving.inputs import Takes, check_unpacked, length_of
from warmstart.studio.project import Project
from warmstart.studio.routes import Studio
from warmstart.studio.work import Hub, Tools

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
        except Problem as problem:
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
        raise Problem(411, "send Content-Length")
    if length_of(length) > MOST:
        raise Problem(413, f"the body is larger than {MOST / 1e6:.0f} MB")


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
        return as_response(Problem(422, error.errors()[0]["msg"]))
    return as_response(Problem(422, str(error)))
