"""What opens a studio."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """`entry` stands in the address that is printed, `session` in the cookie it is changed for.

    A browser sends a cookie to every port of a host: what another program on this computer may
    so come to see opens nothing once this server has ended, and never was in an address.
    """

    entry: str
    session: str
