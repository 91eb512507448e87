"""Fields that came later: where they are None, files and keys are what they were without them."""

from __future__ import annotations

ABSENT = {"absent": True}  # metadata of such a field; `codec.to_plain` leaves it out
