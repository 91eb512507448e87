"""JSON bodies are read whole before anyone looks at them: they must be JSON, and not large."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from warmstart.delivery.serve.inputs import Takes
from warmstart.delivery.serve.intake import check_unpacked, length_of
from warmstart.delivery.serve.problems import Problem, as_response

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
