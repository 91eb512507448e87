"""The socket, and uvicorn's server on it, with graceful shutdown."""

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

LINGER_S = 2.0  # for the client to read a refusal before the rest of its body is cut off


def bounded_protocol(limits: ServerLimits) -> type[H11Protocol]:
    """uvicorn's protocol with limits: it would wait for the head of a request for ever."""

    class BoundedProtocol(H11Protocol):
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
            # Closing at once would discard the refusal on its way to the client.
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

    return BoundedProtocol


SIGNALS = (signal.SIGINT, signal.SIGTERM)


def bind(host: str, port: int) -> socket.socket:
    """Bind a port, 0 for any free one, before the model is loaded.

    Raises: ServeError where the host is not this computer's, or the port is in use.
    """
    try:
        family, kind, proto, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:  # the latter for an invalid host name
        why = getattr(error, "strerror", None) or "not a host name"
        raise ServeError(f"--host {host}: {why}; use 127.0.0.1 or 0.0.0.0.") from error
    listener = socket.socket(family, kind, proto)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(place)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ServeError(
            f"port {port} on {host} cannot be used ({error.strerror}); choose another with --port."
        ) from error
    return listener


def address(listener: socket.socket) -> str:
    """The URL for a browser on this computer."""
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{shown}:{port}/"


def run(server: Server, listener: socket.socket) -> None:
    """Serve on a socket until a signal; pending requests are answered first.

    Raises: ServeError where the server could not start.
    """
    with suppress(SystemExit):  # which uvicorn raises where an app could not start
        asyncio.run(server.serve(sockets=[listener]))
    if not server.started:
        raise ServeError("the server did not start; run it again with --debug to see why.")


class Server(uvicorn.Server):
    """A server of an app. `ready` is called when it listens, `stopping` at the first signal."""

    def __init__(
        self,
        app: Gate,
        limits: ServerLimits,
        ready: Callable[[], None],
        stopping: Callable[[], None],
    ) -> None:
        config = uvicorn.Config(
            app,
            http=bounded_protocol(limits),
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
        super().__init__(config)
        self._ready = ready
        self._stopping = stopping

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while serving, then restore their handlers; none is raised again."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        handlers = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop gracefully at the first signal, at once at the second."""
        if self.should_exit:
            self.force_exit = True
        else:
            self.should_exit = True
            self._stopping()
