"""Who may ask: the host that was meant, the page that asks, the token that it holds."""

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
# Neither the page itself nor what probes ask tells anything of the model.
OPEN = frozenset(
    (
        "/",
        "/faults.js",
        "/page.css",
        "/page.js",
        "/look.js",
        "/icon.svg",
        "/docs",
        "/docs.css",
        "/docs.js",
        "/openapi.json",
        "/health",
        "/ready",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Which hosts a server answers to, and the token that it wants, if any.

    A page elsewhere can point a name of its own at this computer and so reach a server that
    listens on it alone; the name in the Host header gives that away. A number cannot be
    pointed anywhere, so a server that is open to others takes any.
    """

    hosts: frozenset[str] = LOCAL
    any_number: bool = False
    token: str | None = None
    cookie: str = ""  # of a page that holds the token in one; no script can read it there
    open_paths: frozenset[str] = OPEN
    is_strict: bool = False  # whether a page of another port of this computer is a stranger too

    def refuse(self, path: str, headers: Sequence[tuple[bytes, bytes]]) -> HttpProblem | None:
        """Why a request is refused; None where it may pass."""
        found = dict(headers)
        hosts, origins = _all(headers, b"host"), _all(headers, b"origin")
        if len(hosts) > 1:
            return HttpProblem(400, f"the request names {len(hosts)} hosts")
        host = host_name(hosts[0]) if hosts else None
        if host is None:
            return HttpProblem(400, "the request names no host")
        if not self._is_ours(host):
            return HttpProblem(421, _elsewhere(host))
        if len(origins) > 1 or (origins and not self._may_ask(origins[0], host, hosts[0])):
            return HttpProblem(403, "pages of other hosts may not ask here")
        if self.token is not None and path not in self.open_paths and not self._is_known(found):
            headers_out = {"WWW-Authenticate": 'Bearer realm="warmstart"'}
            return HttpProblem(
                401, "a token is needed: send Authorization: Bearer TOKEN", headers=headers_out
            )
        return None

    def _is_ours(self, host: str) -> bool:
        return host in self.hosts or (self.any_number and is_number(host))

    def _may_ask(self, origin: str, host: str, header: str) -> bool:
        if self.is_strict:
            return origin == f"http://{header}"
        return self._is_our_page(origin, host)

    def _is_our_page(self, origin: str, asked: str) -> bool:
        """Any number may be asked, but a page comes from the one that it asks."""
        scheme, mark, rest = origin.partition("://")
        host = host_name(rest) if mark and scheme in ("http", "https") else None
        return host is not None and (host in self.hosts or host == asked)

    def _is_known(self, headers: Mapping[bytes, bytes]) -> bool:
        """Compared in constant time: how long it takes must not tell how much was right."""
        wanted = (self.token or "").encode()
        if self.cookie and hmac.compare_digest(_in_cookie(headers, self.cookie), wanted):
            return True
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        return hmac.compare_digest(given.strip(), wanted) and kind.lower() == b"bearer"


def access_for(host: str, token: str | None, names: Sequence[str] = ()) -> Access:
    """The rule for a server that listens on `host`; `names` are other names it answers to.

    Raises: UsageError for a name that is none.

    >>> access_for("127.0.0.1", None).any_number, access_for("0.0.0.0", None).any_number
    (False, True)
    """
    own = {host.lower().strip("[]")}
    for name in names:
        written = host_name(name)
        if written is None:
            raise UsageError(
                f"--allow-host {name}: this is no host name; write it as browsers do, such as "
                "models.example.org."
            )
        own.add(written)
    return Access(hosts=LOCAL | own, any_number=not is_local(host), token=token)


def is_local(host: str) -> bool:
    """Whether only this computer reaches a server that listens there.

    >>> is_local("127.0.0.1"), is_local("localhost"), is_local("::1"), is_local("0.0.0.0")
    (True, True, True, False)
    """
    if host.lower() == "localhost":
        return True
    return is_number(host) and ipaddress.ip_address(host.strip("[]")).is_loopback


def is_number(host: str) -> bool:
    """Whether a host is an address in numbers.

    >>> is_number("192.168.0.7"), is_number("::1"), is_number("example.org")
    (True, True, False)
    """
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def host_name(header: str) -> str | None:
    """The name in a Host header, without its port, in small letters; None if there is none.

    Read strictly, by RFC 9112: what one reader takes for our name and another for the port or
    the user of a stranger's is no name. An address of version 6 comes in its shortest form.

    >>> host_name("LocalHost:8000"), host_name("[::1]:8000"), host_name("[::1"), host_name("")
    ('localhost', '::1', None, None)
    >>> host_name("127.0.0.1:80@evil.example"), host_name("localhost.")
    (None, None)
    """
    found = _HOST.fullmatch(header.lower()) if len(header) <= LONGEST else None
    if found is None or int(found["port"] or 0) > LAST_PORT:
        return None
    if found["six"] is None:
        return found["name"]
    try:
        return ipaddress.IPv6Address(found["six"]).compressed
    except ValueError:
        return None


def _in_cookie(headers: Mapping[bytes, bytes], name: str) -> bytes:
    """What a cookie holds; nothing where it was not sent.

    >>> _in_cookie({b"cookie": b"a=1; studio=xyz"}, "studio")
    b'xyz'
    """
    for pair in headers.get(b"cookie", b"").split(b";"):
        key, _, value = pair.strip().partition(b"=")
        if key == name.encode():
            return value
    return b""


def _all(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> list[str]:
    """The values of every header of a name, in order."""
    return [value.decode("latin-1") for key, value in headers if key == name]


def _elsewhere(host: str) -> str:
    return f"this server is not {host[:100]}; if it is to be, start it with --allow-host"


# ---- Before and after everything else: who may ask, headers that protect the page, counting.


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
