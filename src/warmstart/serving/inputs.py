"""Request bodies to inputs: multipart files, JSON, CSV, or a single file."""

from __future__ import annotations

import asyncio
import base64
import binascii
import csv
import io
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, RootModel, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from warmstart.modalities.image import IMAGE
from warmstart.modalities.modality import Modality
from warmstart.modalities.registry import MODALITIES
from warmstart.serving.http import HttpProblem, retry
from warmstart.serving.model import ServerLimits

Schema = TypeVar("Schema", bound=BaseModel)
Element = TypeVar("Element")
FIELDS = 32  # fields of a form that are no files
NAME = 120  # letters of a file name that are shown
SPARE = 64  # commas of a JSON body, besides the two of each image


@dataclass(frozen=True, slots=True)
class BodyTypes:
    """Accepted content types, whole or as a prefix ending in a slash; `hint` lists them."""

    types: tuple[bytes, ...]
    hint: str

    def parse(self, content_type: str) -> tuple[bytes, dict[bytes, bytes]]:
        """A content type and its parameters. Raises: Problem 415 for one that is not accepted."""
        kind, options = parse_options_header(content_type)
        group = kind.partition(b"/")[0] + b"/"
        if kind not in self.types and group not in self.types:
            raise HttpProblem(415, self.hint)
        return kind, options


def body_types(modality: Modality[Any]) -> BodyTypes:
    """The content types in which a server takes examples.

    Files of any kind are accepted: decoding finds out what they hold.
    """
    if modality.form != "files":
        return ROWS if modality.form == "rows" else TEXTS
    others = (one for one in MODALITIES.values() if one.form == "files" and one != modality)
    files = tuple(f"{one.kind}/".encode() for one in (modality, *others))
    hint = (
        "send multipart/form-data, application/json with base64, or one "
        f"{modality.nouns.one} as {modality.kind}/*"
    )
    types = (b"multipart/form-data", b"application/json", *files, b"application/octet-stream")
    return BodyTypes(types, hint)


@dataclass(frozen=True, slots=True)
class Upload:
    """One input of a request. `name` is a label for people, never a path that is opened."""

    name: str
    payload: bytes


class StrictBody(BaseModel):
    """A JSON body without unknown keys."""

    model_config = ConfigDict(extra="forbid")


class ImagesBody(StrictBody):
    """`{"images": ["<base64>", …]}` or `{"image": "<base64>"}`; also as data: URLs."""

    image: str | None = None
    images: list[str] = []


def read_files(
    content_type: str, body: bytes, limits: ServerLimits, modality: Modality[Any] = IMAGE
) -> list[Upload]:
    """The images or clips of a body, in order; at least one. Raises: Problem 400, 413, 415, 422."""
    types = body_types(modality)
    kind, options = types.parse(content_type)
    noun = modality.nouns.one
    if kind == b"multipart/form-data":
        uploads = read_form(options.get(b"boundary", b""), body, limits)
    elif kind == b"application/json":
        # Base64 holds no comma. Millions of tiny values would take half a minute to parse, with
        # all others waiting, only to be refused: counting commas takes milliseconds.
        if body.count(b",") > 2 * limits.images + SPARE:
            raise _too_many(limits.images, "files")
        content = read_json(ImagesBody, body)
        texts = one_or_many("image", content.image, content.images)
        if len(texts) > limits.images:
            raise _too_many(limits.images, "files")
        uploads = [Upload(f"#{n}", _decode_base64(text, n)) for n, text in enumerate(texts)]
    else:
        uploads = [Upload(noun, body)] if body else []
    return _not_empty(uploads, noun, types)


def _not_empty(uploads: list[Upload], noun: str, types: BodyTypes) -> list[Upload]:
    if not uploads:
        raise HttpProblem(400, f"no {noun} was sent; {types.hint}")
    return uploads


def read_json(schema: type[Schema], body: bytes) -> Schema:
    """Validate a JSON body. Raises: Problem 422 for the first error."""
    try:
        return schema.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))[:NAME]
        raise HttpProblem(422, f"{where}: {first['msg']}".removeprefix(": ")) from None


def one_or_many(name: str, one: Element | None, many: list[Element]) -> list[Element]:
    """The values under `name` or its plural. Raises: Problem 422 for both at once."""
    if one is not None and many:
        raise HttpProblem(422, f"send {name} or {name}s, not both")
    return many if one is None else [one]


def _decode_base64(text: str, number: int) -> bytes:
    text = re.sub(r"\Adata:[^,]{0,200},", "", text)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise HttpProblem(422, f"image {number} is not base64") from None


def read_form(boundary: bytes, body: bytes, limits: ServerLimits) -> list[Upload]:
    """The files of a form, in order. Raises: Problem 400 or 413."""
    if not boundary:
        raise HttpProblem(400, "the form has no boundary")
    form = _Form(limits)
    try:
        parser = MultipartParser(  # which refuses a boundary that is too long
            boundary,
            {
                "on_part_begin": form.begin,
                "on_header_field": form.header_field,
                "on_header_value": form.header_value,
                "on_header_end": form.header_end,
                "on_part_data": form.data,
                "on_part_end": form.end,
                "on_end": form.finish,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise HttpProblem(400, "the form cannot be read") from None
    if not form.is_whole:
        raise HttpProblem(400, "the form breaks off")
    return form.files


@dataclass(slots=True)
class _Form:
    """Callbacks of the form parser, which gather the files."""

    limits: ServerLimits
    files: list[Upload] = field(default_factory=list)
    is_whole: bool = False
    _n_fields: int = 0
    _name: str | None = None
    _field: bytearray = field(default_factory=bytearray)
    _value: bytearray = field(default_factory=bytearray)
    _payload: bytearray = field(default_factory=bytearray)

    def begin(self) -> None:
        self._name, self._payload = None, bytearray()

    def header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        if bytes(self._field).lower() == b"content-disposition":
            _, options = parse_options_header(bytes(self._value))
            name = options.get(b"filename")
            self._name = None if name is None else display_name(name)
        self._field, self._value = bytearray(), bytearray()

    def data(self, data: bytes, start: int, end: int) -> None:
        self._payload += data[start:end]

    def end(self) -> None:
        if self._name is None:
            self._n_fields += 1
        else:
            self.files.append(Upload(self._name, bytes(self._payload)))
        if len(self.files) > self.limits.images or self._n_fields > FIELDS:
            raise _too_many(self.limits.images, "files")

    def finish(self) -> None:
        self.is_whole = True


def _too_many(most: int, what: str) -> HttpProblem:
    return HttpProblem(413, f"more than {most} {what} in one request; send them in several")


def display_name(name: bytes) -> str:
    """A file's name for display: without folders and unprintable characters.

    >>> display_name(b"../../etc/passwd"), display_name(b"C:\\\\a\\x00.jpg"), display_name(b"")
    ('passwd', 'a.jpg', 'image')
    """
    last = re.split(r"[/\\]", name.decode("utf-8", "replace"))[-1]
    return "".join(letter for letter in last if letter.isprintable())[:NAME] or "image"


# ---- Rows of a table: JSON by column name, or a CSV file.

ROWS = BodyTypes(
    (b"application/json", b"text/csv", b"multipart/form-data"),
    'send application/json such as {"row": {"age": 62}}, or a CSV file as text/csv or in a form',
)
Cells = dict[str, str | int | float | bool | None]


class RowsBody(StrictBody):
    """`{"row": {"age": 62, "site": "north"}}` or `{"rows": [{…}, …]}`; null where missing."""

    row: Cells | None = None
    rows: list[Cells] = []


def read_rows(content_type: str, body: bytes, limits: ServerLimits) -> list[Upload]:
    """The rows of a body, in order; at least one. Each is JSON: {column: text}.

    Raises: Problem 400, 413, 415 or 422.
    """
    kind, options = ROWS.parse(content_type)
    if kind == b"application/json":
        content = read_json(RowsBody, body)
        rows = one_or_many("row", content.row, content.rows)
        uploads = [_row_upload(f"#{n}", row) for n, row in enumerate(rows)]
    elif kind == b"text/csv":
        uploads = _read_csv(body, "")
    else:
        files = read_form(options.get(b"boundary", b""), body, limits)
        uploads = [row for file in files for row in _read_csv(file.payload, f"{file.name} ")]
    if len(uploads) > limits.rows:
        raise _too_many(limits.rows, "rows")
    return _not_empty(uploads, "row", ROWS)


def _read_csv(payload: bytes, name: str) -> list[Upload]:
    try:
        text = payload.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise HttpProblem(422, f"{name}is not a table: it is not UTF-8") from None
    separator = max(",;\t", key=text.partition("\n")[0].count)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        rows = list(reader)
    except csv.Error as error:
        raise HttpProblem(422, f"{name}is not a table: {error}") from None
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            why = f"{name}line {number} has another number of cells than the header"
            raise HttpProblem(422, why)
    return [_row_upload(f"{name}line {number}", row) for number, row in enumerate(rows, 2)]


def _row_upload(name: str, row: Mapping[str, object]) -> Upload:
    cells = {column: "" if cell is None else str(cell) for column, cell in row.items()}
    return Upload(name, json.dumps(cells, ensure_ascii=False).encode())


# ---- Texts: JSON, a form of .txt files, or one text.

TEXTS = BodyTypes(
    (b"application/json", b"text/plain", b"multipart/form-data"),
    'send application/json such as {"text": "…"}, text/plain, or multipart/form-data',
)


class TextsBody(StrictBody):
    """`{"text": "…"}` or `{"texts": ["…", …]}`."""

    text: str | None = None
    texts: list[str] = []


class TextList(RootModel[list[str]]):
    """A bare list of texts."""


def read_texts(content_type: str, body: bytes, limits: ServerLimits) -> list[Upload]:
    """The texts of a body, in order; at least one.

    Raises: Problem 400, 413, 415 or 422.
    """
    kind, options = TEXTS.parse(content_type)
    if kind == b"multipart/form-data":
        uploads = read_form(options.get(b"boundary", b""), body, limits)
    elif kind == b"application/json":
        if body.lstrip()[:1] == b"[":
            texts = read_json(TextList, body).root
        else:
            content = read_json(TextsBody, body)
            texts = one_or_many("text", content.text, content.texts)
        if len(texts) > limits.images:
            raise _too_many(limits.images, "texts")
        payloads = (text.encode("utf-8", "replace") for text in texts)
        uploads = [Upload(f"#{n}", payload) for n, payload in enumerate(payloads)]
    else:
        uploads = [Upload("text", body)] if body else []
    return _not_empty(uploads, "text", TEXTS)


# ---- Request bodies, bounded in size and time, one by one and together.


class BodyReader:
    """Reads bodies and counts the bytes in memory."""

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._n_bytes = 0

    @asynccontextmanager
    async def body(self, request: Request, types: BodyTypes) -> AsyncIterator[bytes]:
        """The whole body, in memory while the context lasts.

        Raises: Problem 415 for a content type that is not accepted, 413 for a body that is too
        large, 408 for one that is too slow, 503 where too much is in memory, 400 where it breaks
        off.
        """
        types.parse(request.headers.get("content-type", ""))
        check_encoding(request.headers.get("content-encoding"))
        length = request.headers.get("content-length")
        if length is not None and parse_length(length) > self._limits.body_bytes:
            raise self._too_large()
        size, chunks = 0, list[bytes]()
        try:
            try:
                async with asyncio.timeout(self._limits.body_s):
                    async for chunk in request.stream():
                        if size + len(chunk) > self._limits.body_bytes:
                            raise self._too_large()
                        if self._n_bytes + len(chunk) > self._limits.held_bytes:
                            raise retry("too much is being sent at once; try again", 2)
                        size += len(chunk)
                        self._n_bytes += len(chunk)
                        chunks.append(chunk)
            except TimeoutError:
                seconds = f"{self._limits.body_s:g} s"
                raise HttpProblem(408, f"the body did not arrive within {seconds}") from None
            except ClientDisconnect:
                raise HttpProblem(400, "the body breaks off") from None
            content = b"".join(chunks)
            chunks.clear()
            yield content
        finally:
            self._n_bytes -= size

    def _too_large(self) -> HttpProblem:
        most = self._limits.body_bytes / 1e6
        return HttpProblem(413, f"the body is larger than {most:.0f} MB; send less at once")


def parse_length(text: str) -> int:
    """The bytes of a Content-Length header. Raises: Problem 400 where it is not a number."""
    if not (text.isascii() and text.isdigit()):
        raise HttpProblem(400, "Content-Length is not a number")
    return int(text[:30])  # Python parses no number of thousands of digits; this is large enough


def check_encoding(encoding: str | None) -> None:
    """Raises: Problem 415 for a compressed body: decompression has no bound."""
    if encoding is not None and encoding.strip().lower() not in ("", "identity"):
        raise HttpProblem(415, "send the body uncompressed, without Content-Encoding")
