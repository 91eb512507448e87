"""What the page may send, checked before anything is done with it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

MOST_IDS = 100_000
Ids = Annotated[list[Annotated[str, Field(max_length=40)]], Field(max_length=MOST_IDS)]


class Labelling(BaseModel):
    """Pictures and the class they get; null takes them off the board.

    `on`: where a picture may have several labels, this one is given to them, or taken away.
    """

    model_config = ConfigDict(extra="forbid")
    ids: Ids
    label: str | None
    on: bool | None = None


class Keeping(BaseModel):
    """Pictures whose labels were looked at and are right."""

    model_config = ConfigDict(extra="forbid")
    ids: Ids


class Classes(BaseModel):
    """One of: a class to add, to rename (old, new), to remove."""

    model_config = ConfigDict(extra="forbid")
    add: str | None = None
    rename: tuple[str, str] | None = None
    remove: str | None = None


class Learning(BaseModel):
    """How to learn: the budget, and values of the plan as path=value."""

    model_config = ConfigDict(extra="forbid")
    budget: Literal["fast", "balanced", "thorough"] = "fast"
    settings: list[Annotated[str, Field(max_length=1000)]] = Field(default=[], max_length=200)
