"""Access control: Host and Origin headers, tokens, and security headers."""

from __future__ import annotations

import hmac
import ipaddress
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from warmstart.errors import UsageError
from warmstart.serving.http import HttpProblem, Metrics, as_response

LOCAL = frozenset(("localhost", "127.0.0.1", "::1"))
LONGEST, LAST_PORT = 300, 65535
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_HOST = re.compile(
    rf"(?:(?P<name>{_LABEL}(?:\.{_LABEL})*)|\[(?P<six>[0-9a-f:.]+)\])(?::(?P<port>[0-9]{{0,5}}))?"
)
# Open without a token: the page itself and the probes reveal nothing about the model.
_PAGE = ("/", "/script_errors.js", "/page.css", "/page.js", "/answer.js", "/icon.svg")
_DOCS = ("/docs", "/docs.css", "/docs.js", "/openapi.json")
OPEN = frozenset((*_PAGE, *_DOCS, "/health", "/ready"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The hosts that a server answers to, and the token that it requires, if any.

    Another site can point its own name at this computer (DNS rebinding) and so reach a server that
    only listens locally; the Host header reveals that. An IP address cannot be rebound, so a server
    that is open to others accepts any.
    """

    hosts: frozenset[str] = LOCAL
    any_number: bool = False
    token: str | None = None
    cookie: str = ""  # holds the token of a page, where no script can read it
    open_paths: frozenset[str] = OPEN
    is_strict: bool = False  # refuse pages of other ports of this computer too

    def refuse(self, path: str, headers: Sequence[tuple[bytes, bytes]]) -> HttpProblem | None:
        """The reason to refuse a request, or None."""
        hosts, origins = _values(headers, b"host"), _values(headers, b"origin")
        if len(hosts) > 1:
            return HttpProblem(400, f"the request names {len(hosts)} hosts")
        host = host_name(hosts[0]) if hosts else None
        if host is None:
            return HttpProblem(400, "the request names no host")
        if host not in self.hosts and not (self.any_number and is_number(host)):
            why = f"this server is not {host[:100]}; to allow it, start it with --allow-host"
            return HttpProblem(421, why)
        if len(origins) > 1 or (origins and not self._is_own_page(origins[0], host, hosts[0])):
            return HttpProblem(403, "pages of other hosts may not use this server")
        is_open = self.token is None or path in self.open_paths
        if not is_open and not self._has_token(dict(headers)):
            challenge = {"WWW-Authenticate": 'Bearer realm="warmstart"'}
            why = "a token is needed: send Authorization: Bearer TOKEN"
            return HttpProblem(401, why, headers=challenge)
        return None

    def _is_own_page(self, origin: str, host: str, header: str) -> bool:
        """Whether the page comes from a host of the server, or the very one it sends to."""
        if self.is_strict:
            return origin == f"http://{header}"
        scheme, mark, rest = origin.partition("://")
        name = host_name(rest) if mark and scheme in ("http", "https") else None
        return name is not None and (name in self.hosts or name == host)

    def _has_token(self, headers: Mapping[bytes, bytes]) -> bool:
        """Compared in constant time, which does not reveal how much is right."""
        token = (self.token or "").encode()
        if self.cookie and hmac.compare_digest(_read_cookie(headers, self.cookie), token):
            return True
        scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
        return hmac.compare_digest(value.strip(), token) and scheme.lower() == b"bearer"


def access_for(host: str, token: str | None, names: Sequence[str] = ()) -> Access:
    """The access rule of a server that listens on `host`; `names` are its further names.

    Raises: UsageError for a name that is not a host name.

    >>> access_for("127.0.0.1", None).any_number, access_for("0.0.0.0", None).any_number
    (False, True)
    """
    hosts = {host.lower().strip("[]")}
    for name in names:
        normalised = host_name(name)
        if normalised is None:
            raise UsageError(
                f"--allow-host {name}: this is not a host name; write it as browsers do, such as "
                "models.example.org."
            )
        hosts.add(normalised)
    return Access(hosts=LOCAL | hosts, any_number=not is_local(host), token=token)


def is_local(host: str) -> bool:
    """Whether only this computer reaches a server that listens there.

    >>> is_local("127.0.0.1"), is_local("localhost"), is_local("::1"), is_local("0.0.0.0")
    (True, True, True, False)
    """
    if host.lower() == "localhost":
        return True
    return is_number(host) and ipaddress.ip_address(host.strip("[]")).is_loopback


def is_number(host: str) -> bool:
    """Whether a host is an IP address."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def host_name(header: str) -> str | None:
    """The name in a Host header, without its port, in lower case; None if there is none.

    Parsed strictly by RFC 9112: anything that another parser could read as a different host is
    rejected. IPv6 addresses are compressed.

    >>> host_name("LocalHost:8000"), host_name("[::1]:8000"), host_name("[::1"), host_name("")
    ('localhost', '::1', None, None)
    >>> host_name("127.0.0.1:80@evil.example"), host_name("localhost.")
    (None, None)
    """
    match = _HOST.fullmatch(header.lower()) if len(header) <= LONGEST else None
    if match is None or int(match["port"] or 0) > LAST_PORT:
        return None
    if match["six"] is None:
        return match["name"]
    try:
        return ipaddress.IPv6Address(match["six"]).compressed
    except ValueError:
        return None


def _read_cookie(headers: Mapping[bytes, bytes], name: str) -> bytes:
    for pair in headers.get(b"cookie", b"").split(b";"):
        key, _, value = pair.strip().partition(b"=")
        if key == name.encode():
            return value
    return b""


def _values(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key == name]


# ---- The outermost application: access, security headers, counting.
# The page loads nothing from elsewhere, runs no script but its own files, and cannot be framed.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "media-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS = [
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
    """An app behind its access rule; every response carries the security headers."""

    def __init__(self, app: ASGIApp, access: Access, metrics: Metrics | None = None) -> None:
        self.app = app
        self._access = access
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI connection: a request, or the app's lifespan."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 499  # until a response begins: the client has gone

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = list(message.get("headers", ()))
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append((b"cache-control", b"no-store"))
                message = {**message, "headers": headers + SECURITY_HEADERS}
            await send(message)

        problem = self._access.refuse(scope["path"], scope["headers"])
        app = self.app if problem is None else as_response(problem)
        try:
            await app(scope, receive, send_with_headers)
        finally:
            if self._metrics is not None:
                method = scope["method"] if scope["method"] in METHODS else "other"
                path = getattr(scope.get("route"), "path", "other")
                self._metrics.count_request(method, path, status, time.perf_counter() - began)
