"""Before and after everything else: who may ask, headers that protect the page, counting."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from warmstart.delivery.serve.access import Access
from warmstart.delivery.serve.metrics import Metrics
from warmstart.delivery.serve.problems import as_response

# The page loads nothing from elsewhere, runs no script but its own files, and cannot be framed.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PROTECTING = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"geolocation=(), microphone=(), usb=()"),
]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class Gate:
    """An app behind its access rule; every response carries the protecting headers."""

    def __init__(self, app: ASGIApp, access: Access, metrics: Metrics | None = None) -> None:
        self.app = app
        self._access = access
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection; requests only, and the app's own start and stop."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        began, seen = time.perf_counter(), _Seen(send)
        problem = self._access.refuse(scope["path"], scope["headers"])
        try:
            if problem is not None:
                await as_response(problem)(scope, receive, seen.send)
            else:
                await self.app(scope, receive, seen.send)
        finally:
            if self._metrics is not None:
                method = scope["method"] if scope["method"] in METHODS else "other"
                path = getattr(scope.get("route"), "path", "other")
                self._metrics.saw_request(method, path, seen.status, time.perf_counter() - began)


class _Seen:
    """Sends on, adds headers, notes the status."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 499  # nobody waited for the answer

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = list(message.get("headers", ()))
            if not any(name == b"cache-control" for name, _ in headers):
                headers.append((b"cache-control", b"no-store"))
            message = {**message, "headers": headers + PROTECTING}
        await self._send(message)
