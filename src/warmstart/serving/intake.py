"""A request's body, bounded in size and time; all bodies together are bounded as well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from starlette.requests import ClientDisconnect

from warmstart.serving.inputs import Takes
from warmstart.serving.model import Limits
from warmstart.serving.problems import Problem, retry


class Intake:
    """Reads bodies and knows how many bytes of them are held."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._held = 0

    @asynccontextmanager
    async def body(self, request: Request, takes: Takes) -> AsyncIterator[bytes]:
        """The whole body, held for as long as the context lasts.

        Raises: Problem 415 for a content type that is not read, 413 as soon as it is known to be
        too large, 408 where it comes too slowly, 503 where too much is held already, 400 where
        it breaks off.
        """
        takes.kind_of(request.headers.get("content-type", ""))
        check_unpacked(request.headers.get("content-encoding"))
        self.check_length(request)
        taken = [0]
        try:
            yield await self._in_time(request, taken)
        finally:
            self._held -= taken[0]

    async def _in_time(self, request: Request, taken: list[int]) -> bytes:
        try:
            async with asyncio.timeout(self._limits.body_s):
                return await self._read(request, taken)
        except TimeoutError:
            raise Problem(408, f"no whole body came in {self._limits.body_s:g} s") from None
        except ClientDisconnect:
            raise Problem(400, "the body breaks off") from None

    def check_length(self, request: Request) -> None:
        """Refuse by the head alone. Raises: Problem 400, 413."""
        told = request.headers.get("content-length")
        if told is None:
            return
        if length_of(told) > self._limits.body_bytes:
            raise self._too_large()

    async def _read(self, request: Request, taken: list[int]) -> bytes:
        """`taken` counts what is held for this body, also where reading it ends in an error."""
        chunks: list[bytes] = []
        async for chunk in request.stream():
            if taken[0] + len(chunk) > self._limits.body_bytes:
                raise self._too_large()
            if self._held + len(chunk) > self._limits.held_bytes:
                raise retry("too much is being sent at once; try again", 2)
            taken[0] += len(chunk)
            self._held += len(chunk)
            chunks.append(chunk)
        return b"".join(chunks)

    def _too_large(self) -> Problem:
        most = self._limits.body_bytes / 1e6
        return Problem(413, f"the body is larger than {most:.0f} MB; send less at once")


def length_of(told: str) -> int:
    """The bytes that a Content-Length tells of. Raises: Problem 400 where it is no number.

    >>> length_of("12"), length_of("9" * 5000) > 10**20
    (12, True)
    """
    if not (told.isascii() and told.isdigit()):
        raise Problem(400, "Content-Length is no number")
    return int(told[:30])  # Python reads no number of thousands of digits; this is large enough


def check_unpacked(encoding: str | None) -> None:
    """Raises: Problem 415 for a body that is packed: unpacking has no bound."""
    if encoding is not None and encoding.strip().lower() not in ("", "identity"):
        raise Problem(415, "send the body as it is, without Content-Encoding")
