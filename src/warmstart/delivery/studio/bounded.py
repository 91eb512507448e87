"""Bodies that are read whole before anyone looks at them must not be large."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from warmstart.delivery.serve.problems import Problem, as_response

MOST = 4 * 2**20  # bytes: 100,000 ids
STREAMED = b"multipart/form-data"  # pictures, which are bounded as they come


class Bounded:
    """Refuses other bodies than pictures by their length, and those that do not tell it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection."""
        problem = None
        if scope["type"] == "http" and scope["method"] == "POST":
            problem = _problem(dict(scope["headers"]))
        if problem is None:
            await self.app(scope, receive, send)
        else:
            await as_response(problem)(scope, receive, send)


def _problem(headers: dict[bytes, bytes]) -> Problem | None:
    if headers.get(b"content-type", b"").startswith(STREAMED):
        return None
    told = headers.get(b"content-length")
    if told is None:
        is_chunked = b"transfer-encoding" in headers
        return Problem(411, "send Content-Length") if is_chunked else None
    if not told.isdigit():
        return Problem(400, "Content-Length is no number")
    return Problem(413, "the body is too large") if int(told) > MOST else None
