"""A body to the texts in it: JSON, a form of .txt files, or one text as it is."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, RootModel

from warmstart.delivery.serve.inputs import Sent, Takes, files_in, one_or_many, read_json
from warmstart.delivery.serve.problems import Problem
from warmstart.delivery.serve.served import Limits

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


def texts_in(content_type: str, body: bytes, limits: Limits) -> list[Sent]:
    """The texts of a body, in order; at least one.

    Raises: Problem 400, 413, 415 or 422.

    >>> texts_in("application/json", b'{"text": "hi"}', Limits())
    [Sent(name='#0', payload=b'hi')]
    >>> [one.name for one in texts_in("application/json", b'["a", "b"]', Limits())]
    ['#0', '#1']
    """
    kind, options = TEXTS.kind_of(content_type)
    if kind == b"multipart/form-data":
        found = files_in(options.get(b"boundary", b""), body, limits)
    elif kind == b"application/json":
        found = _in_json(body, limits)
    else:
        found = [Sent("text", body)] if body else []
    if not found:
        raise Problem(400, f"no text was sent; {TEXTS.ways}")
    return found


def _in_json(body: bytes, limits: Limits) -> list[Sent]:
    if body.lstrip()[:1] == b"[":
        texts = read_json(TextList, body).root
    else:
        asked = read_json(SentTexts, body)
        texts = one_or_many("text", asked.text, asked.texts)
    if len(texts) > limits.images:
        raise Problem(413, f"more than {limits.images} texts in one request; send them in several")
    return [Sent(f"#{n}", text.encode("utf-8", "replace")) for n, text in enumerate(texts)]
