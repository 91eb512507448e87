"""The way in: the address that the terminal prints is exchanged for a cookie."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import Response
from fastapi.responses import RedirectResponse

from warmstart.delivery.studio.keys import Keys

LASTS_S = 30 * 86400  # that a browser keeps the cookie; the server ends sooner


def enter(keys: Keys, cookie: str, page: str) -> Callable[[str | None], Awaitable[Response]]:
    """The route of the page. With the right token it sets the cookie, which no script can read
    and no other site's page can use, and takes the token out of the address."""
    content = (files("warmstart.delivery") / "page" / page).read_bytes()

    async def send(token: str | None = None) -> Response:
        if token is None:
            return Response(content, media_type="text/html", headers={"Cache-Control": "no-cache"})
        found = RedirectResponse("/", 303)
        if hmac.compare_digest(token.encode(), wanted):
            found.set_cookie(
                cookie, keys.session, LASTS_S, httponly=True, samesite="strict", path="/"
            )
        return found

    wanted = keys.entry.encode()
    return send
