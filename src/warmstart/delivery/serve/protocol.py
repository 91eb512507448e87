"""Connections that come to nothing are closed: too slow a head, too many, bodies nobody reads."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from warmstart.delivery.serve.served import Limits

LINGER_S = 2.0  # time to read a refusal before the rest of a body is cut off


def patient(limits: Limits) -> type[H11Protocol]:
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
