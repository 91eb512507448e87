"""A body to the images in it: multipart files, base64 in JSON, or one image as it is."""

from __future__ import annotations

import asyncio
import base64
import binascii
import csv
import io
import json
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, RootModel, ValidationError
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from warmstart.nouns import nouns_of
from warmstart.records.inputs import Kind
from warmstart.serving.http import HttpProblem, retry
from warmstart.serving.model import ServerLimits

Shape = TypeVar("Shape", bound=BaseModel)
Element = TypeVar("Element")
FIELDS = 32  # parts of a form that are no files
NAME = 120  # letters of a file name that are kept
SPARE = 64  # commas of a JSON body, besides the two that an image may bring


@dataclass(frozen=True, slots=True)
class Takes:
    """The content types of bodies that are read: whole, or the start that ends in a slash.

    `ways` says them to whoever sends another.
    """

    kinds: tuple[bytes, ...]
    ways: str

    def kind_of(self, content_type: str) -> tuple[bytes, dict[bytes, bytes]]:
        """A content type and its parameters. Raises: Problem 415 for one that is not read.

        >>> Takes((b"image/",), "").kind_of("Image/PNG; a=b")
        (b'image/png', {b'a': b'b'})
        """
        kind, options = parse_options_header(content_type)
        group = kind.partition(b"/")[0] + b"/"
        if kind not in self.kinds and group not in self.kinds:
            raise HttpProblem(415, self.ways)
        return kind, options


def _files_of(kind: Kind) -> Takes:
    """Files of either kind: what they hold is found out where they are decoded."""
    ways = (
        "send multipart/form-data, application/json with base64, or one "
        f"{nouns_of(kind).one} as {kind}/*"
    )
    own, other = (b"image/", b"audio/") if kind == "image" else (b"audio/", b"image/")
    single = (own, other, b"application/octet-stream")
    return Takes((b"multipart/form-data", b"application/json", *single), ways)


IMAGES, CLIPS = _files_of("image"), _files_of("audio")


@dataclass(frozen=True, slots=True)
class Sent:
    """One image as it came. `name` is a label for people, never a path that is opened."""

    name: str
    payload: bytes


class SentImages(BaseModel):
    """`{"images": ["<base64>", …]}` or `{"image": "<base64>"}`; data: URLs are taken as well."""

    model_config = ConfigDict(extra="forbid")
    image: str | None = None
    images: list[str] = []


def images_in(content_type: str, body: bytes, limits: ServerLimits) -> list[Sent]:
    """The images of a body, in order; at least one.

    Raises: Problem 400, 413, 415 or 422.

    >>> images_in("image/png", b"bytes", ServerLimits())
    [Sent(name='image', payload=b'bytes')]
    """
    return _sent(content_type, body, limits, "image", IMAGES)


def clips_in(content_type: str, body: bytes, limits: ServerLimits) -> list[Sent]:
    """The same of clips of sound. Raises: as `images_in`."""
    return _sent(content_type, body, limits, "audio", CLIPS)


def _sent(
    content_type: str, body: bytes, limits: ServerLimits, of: Kind, takes: Takes
) -> list[Sent]:
    kind, options = takes.kind_of(content_type)
    noun = nouns_of(of).one
    if kind == b"multipart/form-data":
        found = files_in(options.get(b"boundary", b""), body, limits)
    elif kind == b"application/json":
        found = _in_json(body, limits)
    else:
        found = [Sent(noun, body)] if body else []
    if not found:
        raise HttpProblem(400, f"no {noun} was sent; {takes.ways}")
    return found


def _in_json(body: bytes, limits: ServerLimits) -> list[Sent]:
    # Base64 holds no comma. Millions of tiny values would be read for half a minute, all others
    # waiting, only to be refused: counting them takes milliseconds.
    if body.count(b",") > 2 * limits.images + SPARE:
        raise _too_many(limits)
    asked = read_json(SentImages, body)
    texts = one_or_many("image", asked.image, asked.images)
    if len(texts) > limits.images:
        raise _too_many(limits)
    return [Sent(f"#{n}", _decoded(text, n)) for n, text in enumerate(texts)]


def read_json(shape: type[Shape], body: bytes) -> Shape:
    """A JSON body in the shape that is asked for. Raises: Problem 422 for the first fault."""
    try:
        return shape.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))[:NAME]
        raise HttpProblem(422, f"{where}: {first['msg']}".removeprefix(": ")) from None


def one_or_many(name: str, one: Element | None, many: list[Element]) -> list[Element]:
    """What a JSON body holds under `name` or its plural. Raises: Problem 422 for both at once.

    >>> one_or_many("text", "a", []), one_or_many("text", None, ["b", "c"])
    (['a'], ['b', 'c'])
    """
    if one is not None and many:
        raise HttpProblem(422, f"send {name} or {name}s, not both")
    return many if one is None else [one]


def _decoded(text: str, number: int) -> bytes:
    text = re.sub(r"\Adata:[^,]{0,200},", "", text)
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise HttpProblem(422, f"image {number} is not base64") from None


def files_in(boundary: bytes, body: bytes, limits: ServerLimits) -> list[Sent]:
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
    return form.found


@dataclass(slots=True)
class _Form:
    """What the parser of a form tells of, piece by piece."""

    limits: ServerLimits
    found: list[Sent] = field(default_factory=list)
    is_whole: bool = False
    _others: int = 0
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
            self._name = None if name is None else shown_name(name)
        self._field, self._value = bytearray(), bytearray()

    def data(self, data: bytes, start: int, end: int) -> None:
        self._payload += data[start:end]

    def end(self) -> None:
        if self._name is None:
            self._others += 1
        else:
            self.found.append(Sent(self._name, bytes(self._payload)))
        if len(self.found) > self.limits.images or self._others > FIELDS:
            raise _too_many(self.limits)

    def finish(self) -> None:
        self.is_whole = True


def _too_many(limits: ServerLimits) -> HttpProblem:
    return HttpProblem(413, f"more than {limits.images} files in one request; send them in several")


def shown_name(name: bytes) -> str:
    """A file's name as it is shown: without folders and without what cannot be printed.

    >>> shown_name(b"../../etc/passwd"), shown_name(b"C:\\\\a\\x00.jpg"), shown_name(b"")
    ('passwd', 'a.jpg', 'image')
    """
    last = re.split(r"[/\\]", name.decode("utf-8", "replace"))[-1]
    kept = "".join(letter for letter in last if letter.isprintable())
    return kept[:NAME] or "image"


# ---- A body to the rows of a table in it: JSON by column name, or a CSV file.


ROWS = Takes(
    (b"application/json", b"text/csv", b"multipart/form-data"),
    'send application/json such as {"row": {"age": 62}}, or a CSV file as text/csv or in a form',
)
Cells = dict[str, str | int | float | bool | None]


class SentRows(BaseModel):
    """`{"row": {"age": 62, "site": "north"}}` or `{"rows": [{…}, …]}`; null where not known."""

    model_config = ConfigDict(extra="forbid")
    row: Cells | None = None
    rows: list[Cells] = []


def rows_in(content_type: str, body: bytes, limits: ServerLimits) -> list[Sent]:
    """The rows of a body, in order; at least one. Each is JSON: {column: text}.

    Raises: Problem 400, 413, 415 or 422.

    >>> rows_in("application/json", b'{"row": {"age": 62, "dose": null}}', ServerLimits())
    [Sent(name='#0', payload=b'{"age": "62", "dose": ""}')]
    >>> [one.payload for one in rows_in("text/csv", b"age;site\\n62;north\\n", ServerLimits())]
    [b'{"age": "62", "site": "north"}']
    """
    kind, options = ROWS.kind_of(content_type)
    if kind == b"application/json":
        found = _rows_in_json(body)
    elif kind == b"text/csv":
        found = _in_csv(body, "")
    else:
        files = files_in(options.get(b"boundary", b""), body, limits)
        found = [row for file in files for row in _in_csv(file.payload, f"{file.name} ")]
    if not found:
        raise HttpProblem(400, f"no row was sent; {ROWS.ways}")
    if len(found) > limits.rows:
        raise HttpProblem(413, f"more than {limits.rows} rows in one request; send them in several")
    return found


def _rows_in_json(body: bytes) -> list[Sent]:
    asked = read_json(SentRows, body)
    rows = one_or_many("row", asked.row, asked.rows)
    return [_sent_rows(f"#{n}", row.items()) for n, row in enumerate(rows)]


def _in_csv(payload: bytes, name: str) -> list[Sent]:
    try:
        text = payload.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise HttpProblem(422, f"{name}is no table: it is not UTF-8") from None
    head = text.partition("\n")[0]
    separator = max(",;\t", key=head.count)
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        rows = list(reader)
    except csv.Error as error:
        raise HttpProblem(422, f"{name}is no table: {error}") from None
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise HttpProblem(
                422, f"{name}line {number} has another number of cells than the header"
            )
    return [_sent_rows(f"{name}line {number}", row.items()) for number, row in enumerate(rows, 2)]


def _sent_rows(name: str, cells: Iterable[tuple[str, object]] | Mapping[str, object]) -> Sent:
    texts = {column: "" if cell is None else str(cell) for column, cell in dict(cells).items()}
    return Sent(name, json.dumps(texts, ensure_ascii=False).encode())


# ---- A body to the texts in it: JSON, a form of .txt files, or one text as it is.


TEXTS = Takes(
    (b"application/json", b"text/plain", b"multipart/form-data"),
    'send application/json such as {"text": "…"}, text/plain, or multipart/form-data',
)


class SentTexts(BaseModel):
    """`{"text": "…"}` or `{"texts": ["…", …]}`."""

    model_config = ConfigDict(extra="forbid")
    text: str | None = None
    texts: list[str] = []


class TextList(RootModel[list[str]]):
    """A bare list of texts."""


def texts_in(content_type: str, body: bytes, limits: ServerLimits) -> list[Sent]:
    """The texts of a body, in order; at least one.

    Raises: Problem 400, 413, 415 or 422.

    >>> texts_in("application/json", b'{"text": "hi"}', ServerLimits())
    [Sent(name='#0', payload=b'hi')]
    >>> [one.name for one in texts_in("application/json", b'["a", "b"]', ServerLimits())]
    ['#0', '#1']
    """
    kind, options = TEXTS.kind_of(content_type)
    if kind == b"multipart/form-data":
        found = files_in(options.get(b"boundary", b""), body, limits)
    elif kind == b"application/json":
        found = _texts_in_json(body, limits)
    else:
        found = [Sent("text", body)] if body else []
    if not found:
        raise HttpProblem(400, f"no text was sent; {TEXTS.ways}")
    return found


def _texts_in_json(body: bytes, limits: ServerLimits) -> list[Sent]:
    if body.lstrip()[:1] == b"[":
        texts = read_json(TextList, body).root
    else:
        asked = read_json(SentTexts, body)
        texts = one_or_many("text", asked.text, asked.texts)
    if len(texts) > limits.images:
        raise HttpProblem(
            413, f"more than {limits.images} texts in one request; send them in several"
        )
    return [Sent(f"#{n}", text.encode("utf-8", "replace")) for n, text in enumerate(texts)]


# ---- A request's body, bounded in size and time; all bodies together are bounded as well.


class Intake:
    """Reads bodies and knows how many bytes of them are held."""

    def __init__(self, limits: ServerLimits) -> None:
        self._limits = limits
        self._held = 0

    @asynccontextmanager
    async def body(self, request: Request, takes: Takes) -> AsyncIterator[bytes]:
        """The whole body, held for as long as the context lasts.

        Raises: Problem 415 for a content type that is not read, 413 as soon as it is known to be
        too large, 408 where it comes too slowly, 503 where too much is held already, 400 where
        it breaks off.
        """
        takes.kind_of(request.headers.get("content-type", ""))
        check_unpacked(request.headers.get("content-encoding"))
        self.check_length(request)
        taken = [0]
        try:
            yield await self._in_time(request, taken)
        finally:
            self._held -= taken[0]

    async def _in_time(self, request: Request, taken: list[int]) -> bytes:
        try:
            async with asyncio.timeout(self._limits.body_s):
                return await self._read(request, taken)
        except TimeoutError:
            raise HttpProblem(408, f"no whole body came in {self._limits.body_s:g} s") from None
        except ClientDisconnect:
            raise HttpProblem(400, "the body breaks off") from None

    def check_length(self, request: Request) -> None:
        """Refuse by the head alone. Raises: Problem 400, 413."""
        told = request.headers.get("content-length")
        if told is None:
            return
        if length_of(told) > self._limits.body_bytes:
            raise self._too_large()

    async def _read(self, request: Request, taken: list[int]) -> bytes:
        """`taken` counts what is held for this body, also where reading it ends in an error."""
        chunks: list[bytes] = []
        async for chunk in request.stream():
            if taken[0] + len(chunk) > self._limits.body_bytes:
                raise self._too_large()
            if self._held + len(chunk) > self._limits.held_bytes:
                raise retry("too much is being sent at once; try again", 2)
            taken[0] += len(chunk)
            self._held += len(chunk)
            chunks.append(chunk)
        return b"".join(chunks)

    def _too_large(self) -> HttpProblem:
        most = self._limits.body_bytes / 1e6
        return HttpProblem(413, f"the body is larger than {most:.0f} MB; send less at once")


def length_of(told: str) -> int:
    """The bytes that a Content-Length tells of. Raises: Problem 400 where it is no number.

    >>> length_of("12"), length_of("9" * 5000) > 10**20
    (12, True)
    """
    if not (told.isascii() and told.isdigit()):
        raise HttpProblem(400, "Content-Length is no number")
    return int(told[:30])  # Python reads no number of thousands of digits; this is large enough


def check_unpacked(encoding: str | None) -> None:
    """Raises: Problem 415 for a body that is packed: unpacking has no bound."""
    if encoding is not None and encoding.strip().lower() not in ("", "identity"):
        raise HttpProblem(415, "send the body as it is, without Content-Encoding")
