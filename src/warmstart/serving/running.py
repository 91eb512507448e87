"""The socket, and the server on it: started, told to stop, finished."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from warmstart.errors import ServeError
from warmstart.serving.access import Gate
from warmstart.serving.model import ServerLimits

# ---- Connections that come to nothing are closed: too slow a head, too many, bodies nobody reads.


LINGER_S = 2.0  # time to read a refusal before the rest of a body is cut off


def patient(limits: ServerLimits) -> type[H11Protocol]:
    """uvicorn's protocol with bounds of its own: it waits for the head of a request for ever."""

    class Patient(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.close()
            else:
                self._await_head()

        def data_received(self, data: bytes) -> None:
            is_idle = self._is_idle()
            super().data_received(data)
            if not self._is_idle():
                self._forget()
            elif is_idle and self._deadline is None:
                self._await_head()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            # Closing at once would throw away the refusal that is on its way to the sender.
            if not self.transport.is_closing() and self.conn.their_state is h11.SEND_BODY:
                self.loop.call_later(LINGER_S, self._cut)

        def connection_lost(self, exc: Exception | None) -> None:
            self._forget()
            super().connection_lost(exc)

        def _is_idle(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def _await_head(self) -> None:
            self._deadline = self.loop.call_later(limits.head_s, self._give_up)

        def _forget(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _give_up(self) -> None:
            self._deadline = None
            if self._is_idle():
                self.transport.close()

        def _cut(self) -> None:
            if self.conn.their_state is h11.SEND_BODY and self._is_idle():
                self.transport.close()

    return Patient


SIGNALS = (signal.SIGINT, signal.SIGTERM)


def bind(host: str, port: int) -> socket.socket:
    """Take a port, 0 for any that is free, before a model is loaded for it.

    Raises: ServeError where the host is not this computer's, or the port is taken.
    """
    try:
        family, kind, proto, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:  # the latter for what cannot be a host's name
        why = getattr(error, "strerror", None) or "no name of a host"
        raise ServeError(f"--host {host}: {why}; use 127.0.0.1 or 0.0.0.0.") from error
    found = socket.socket(family, kind, proto)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind(place)
        found.listen(2048)
    except OSError as error:
        found.close()
        raise ServeError(
            f"port {port} on {host} cannot be used ({error.strerror}); choose another with --port."
        ) from error
    return found


def address(taken: socket.socket) -> str:
    """Where a browser on this computer finds the server."""
    host, port = taken.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}/"


def run(server: Server, taken: socket.socket) -> None:
    """Serve on a socket until told to stop; what is inside is answered first.

    Raises: ServeError where the server could not start.
    """
    with suppress(SystemExit):  # uvicorn's way to say that an app could not start
        asyncio.run(server.serve(sockets=[taken]))
    if not server.started:
        raise ServeError("the server did not start; run it again with --debug to see why.")


def make_server(
    app: Gate, limits: ServerLimits, ready: Callable[[], None], stopping: Callable[[], None]
) -> Server:
    """A server of an app. `ready` is called when the first request can come, `stopping` at the
    first signal."""
    config = uvicorn.Config(
        app,
        http=patient(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        log_level="error",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=limits.idle_s,  # type: ignore[arg-type]  # any number of seconds
        timeout_graceful_shutdown=int(limits.stop_s),
    )
    return Server(config, ready, stopping)


class Server(uvicorn.Server):
    """uvicorn's server: says when it is ready, and takes a signal as a wish, not an error."""

    def __init__(
        self, config: uvicorn.Config, ready: Callable[[], None], stopping: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._ready = ready
        self._stopping = stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals for as long as it serves; what they did before is put back, none is raised."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal ends it when all are answered, the second at once."""
        if self.should_exit:
            self.force_exit = True
        else:
            self.should_exit = True
            self._stopping()
