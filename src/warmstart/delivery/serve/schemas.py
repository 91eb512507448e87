"""What requests and answers look like, for the OpenAPI description."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, Field

from warmstart.delivery.serve.inputs import SentImages
from warmstart.delivery.serve.problems import MEDIA_TYPE
from warmstart.delivery.serve.rows import SentRows
from warmstart.delivery.serve.texts import SentTexts
from warmstart.records import Kind


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
    box: tuple[float, float, float, float] = Field(
        description="the part of the picture that the grid lies over: left, top, right, bottom"
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
    422: "no image, or not one that can be read", 503: "too much at once; see Retry-After",
}  # fmt: skip
ALWAYS = (400, 401, 403, 421)
OF_A_BODY = (*ALWAYS, 408, 413, 415, 422, 503)


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of a route.

    >>> sorted(problems(404))
    [404]
    """
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemNote"}}}
    return {status: {"description": _SAID[status], "content": content} for status in statuses}


def text_body(many: bool) -> dict[str, Any]:
    """The request body of a route that takes texts, as a part of an operation."""
    one, form = {"type": "string"}, _form(many)
    kinds = [SentTexts.model_json_schema(), {"type": "array", "items": one}]
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"anyOf": kinds}},
                "text/plain": {"schema": one},
                "multipart/form-data": {"schema": form},
            },
        }
    }


def _form(many: bool) -> dict[str, Any]:
    file = {"type": "string", "format": "binary"}
    files = {"type": "array", "items": file, "minItems": 1} if many else file
    return {"type": "object", "properties": {"file": files}, "required": ["file"]}


def image_body(many: bool) -> dict[str, Any]:
    """The request body of a route that takes images, as a part of an operation."""
    return _files_body(many, "image/*")


def clip_body(many: bool) -> dict[str, Any]:
    """The same of clips of sound."""
    return _files_body(many, "audio/*")


def _files_body(many: bool, kind: str) -> dict[str, Any]:
    file, form = {"type": "string", "format": "binary"}, _form(many)
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form},
                "application/json": {"schema": SentImages.model_json_schema()},
                kind: {"schema": file},
            },
        }
    }


def rows_body(many: bool) -> dict[str, Any]:
    """The request body of a route that takes rows of a table, as a part of an operation."""
    return {
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": SentRows.model_json_schema()},
                "text/csv": {"schema": {"type": "string"}},
                "multipart/form-data": {"schema": _form(many)},
            },
        }
    }


BODIES: dict[Kind, Callable[[bool], dict[str, Any]]] = {
    "image": image_body, "audio": clip_body, "text": text_body, "table": rows_body,
}  # fmt: skip
