"""The web application of a studio: its page, its routes, and who may ask."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import ValidationError

from warmstart.delivery.serve.access import LOCAL, Access
from warmstart.delivery.serve.gate import Gate
from warmstart.delivery.serve.pages import add_pages
from warmstart.delivery.serve.problems import Problem, answer_all_errors, as_response
from warmstart.delivery.studio.bounded import Bounded
from warmstart.delivery.studio.entry import enter
from warmstart.delivery.studio.keys import Keys
from warmstart.delivery.studio.project import Project
from warmstart.delivery.studio.routes import Studio
from warmstart.delivery.studio.stream import Hub
from warmstart.delivery.studio.tools import Tools
from warmstart.errors import WarmstartError

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
        hosts=LOCAL, token=keys.session, cookie=cookie, is_strict=True,
        open_paths=frozenset({"/", *pages}),
    )  # fmt: skip
    return Gate(app, access)


def _pages() -> dict[str, tuple[str, str]]:
    """The page's files by their addresses."""
    folder = files("warmstart.delivery") / "page"
    modules = sorted(one.name for one in (folder / "studio").iterdir() if one.name.endswith(".js"))
    script = "text/javascript"
    return {
        "/": ("studio.html", "text/html"), "/studio.css": ("studio.css", "text/css"),
        "/studio.js": ("studio.js", script), "/faults.js": ("faults.js", script),
        "/icon.svg": ("icon.svg", "image/svg+xml"),
        **{f"/studio/{name}": (f"studio/{name}", script) for name in modules},
    }  # fmt: skip


def _add_routes(app: FastAPI, studio: Studio) -> None:
    told: Routes = {
        "board": studio.board, "events": studio.events, "thumbnails/{id}": studio.thumbnail,
        "pictures/{id}": studio.picture, "forecast": studio.forecast, "result": studio.result,
        "take/{name}": studio.take,
    }  # fmt: skip
    done: Routes = {
        "pictures": studio.add, "label": studio.label, "keep": studio.keep,
        "classes": studio.classes, "undo": studio.undo, "redo": studio.redo, "fit": studio.fit,
        "stop": studio.stop, "resume": studio.resume, "try": studio.answer,
        "take/onnx": studio.take_onnx,
    }  # fmt: skip
    for method, routes in (("GET", told), ("POST", done)):
        for path, work in routes.items():
            app.add_api_route(f"/api/{path}", work, methods=[method], response_model=None)


def _refused(request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, ValidationError):
        return as_response(Problem(422, error.errors()[0]["msg"]))
    return as_response(Problem(422, str(error)))
