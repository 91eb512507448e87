"""What requests and answers look like, for the OpenAPI description."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, Field

from warmstart.delivery.serve.inputs import CLIPS, IMAGES, Takes
from warmstart.delivery.serve.problems import MEDIA_TYPE
from warmstart.delivery.serve.rows import ROWS
from warmstart.delivery.serve.texts import TEXTS
from warmstart.records import Kind

Schema = dict[str, Any]


class Near(BaseModel):
    """A training image that is most similar."""

    index: int = Field(description="its place in data.json; see /examples/{index}/thumbnail")
    label: str


class Named(BaseModel):
    """One image answered, or `error` where it could not be read."""

    name: str
    label: str | None
    probability: float | None = Field(description="calibrated: of all 0.8, eight in ten are right")
    sure: bool | None = Field(description="null where nothing could be promised")
    unknown: bool = Field(description="unlike all that the model was shown")
    words: str
    scores: dict[str, float]
    nearest: list[Near]
    error: str | None = None
    labels: list[str] | None = Field(None, description="those named, of several labels")
    value: float | None = Field(None, description="the number, of a model of numbers")
    low: float | None = Field(None, description="90 % of truths lie between low and high")
    high: float | None = None


class Answers(BaseModel):
    """One answer an image, in the order in which they were sent."""

    answers: list[Named]


class HeatMap(BaseModel):
    """What mattered for the label."""

    label: str
    words: str
    grid: list[list[float]] = Field(description="rows from the top; 1: covering it changed most")
    box: list[float] = Field(
        min_length=4,
        max_length=4,
        description="the part of the picture that the grid lies over: left, top, right, bottom",
    )


class Labels(BaseModel):
    """Class names in the order of the model's outputs."""

    labels: list[str]


class State(BaseModel):
    """Whether the server lives, or takes more work."""

    status: str


class ProblemNote(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str
    title: str
    status: int
    detail: str
    images: list[dict[str, str]] = []


_SAID = {
    400: "the request makes no sense", 401: "a token is needed", 403: "asked by a foreign page",
    404: "nothing here", 408: "the body came too slowly", 413: "too large",
    415: "of a kind that is not read", 421: "meant for another host",
    422: "no input, or not one that can be read", 500: "a bug; the server's log says more",
    503: "too much at once; see Retry-After",
}  # fmt: skip
_HEADERS = {
    401: {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}},
    503: {"Retry-After": {"required": True, "schema": {"type": "integer"}}},
}
ALWAYS = (400, 403, 421, 500)
OF_A_BODY = (408, 413, 415, 422, 503)
FILE: Schema = {"type": "string", "format": "binary"}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route.

    >>> sorted(problems(404))
    [404]
    """
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemNote"}}}
    return {
        status: {"description": _SAID[status], "content": content}
        | ({"headers": _HEADERS[status]} if status in _HEADERS else {})
        for status in statuses
    }


def body_of(kind: Kind, most: int) -> Schema:
    """The request body of a route that takes at most `most` inputs of a kind, as a part of an
    operation; the content types are those that are read."""
    takes, one = TAKES[kind]
    names = (name.decode() for name in takes.kinds)
    content = {f"{name}*" if name.endswith("/") else name: FILE for name in names}
    content |= {name: {"type": "string"} for name in content if name.startswith("text/")}
    content |= {"multipart/form-data": _form(most), "application/json": one(most)}
    schemas = {name: {"schema": schema} for name, schema in content.items()}
    return {"requestBody": {"required": True, "content": schemas}}


def _form(most: int) -> Schema:
    files = FILE if most == 1 else {"type": "array", "items": FILE, "minItems": 1}
    return {"type": "object", "properties": {"file": files}, "required": ["file"]}


def _one_or_many(name: str, one: Schema, most: int) -> Schema:
    """`{"text": …}` or `{"texts": […]}`; one of the two."""
    many = {"type": "array", "items": one, "minItems": 1, "maxItems": most}
    return {
        "type": "object", "properties": {name: one, f"{name}s": many},
        "oneOf": [{"required": [name]}, {"required": [f"{name}s"]}], "additionalProperties": False,
    }  # fmt: skip


def _files(most: int) -> Schema:
    told = "base64, or a data: URL of it"
    return _one_or_many("image", {"type": "string", "description": told}, most)


def _texts(most: int) -> Schema:
    one = {"type": "string"}
    bare = {"type": "array", "items": one, "minItems": 1, "maxItems": most}
    return {"anyOf": [_one_or_many("text", one, most), bare]}


def _rows(most: int) -> Schema:
    cell = {"type": ["string", "number", "boolean", "null"]}
    row = {"type": "object", "additionalProperties": cell, "description": "cells by column"}
    return _one_or_many("row", row, most)


TAKES: dict[Kind, tuple[Takes, Callable[[int], Schema]]] = {
    "image": (IMAGES, _files), "audio": (CLIPS, _files), "text": (TEXTS, _texts),
    "table": (ROWS, _rows),
}  # fmt: skip
