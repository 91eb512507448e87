"""The page's files: read once, served by fixed names, never by a path from a request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from importlib.resources import files

from fastapi import FastAPI, Response

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
