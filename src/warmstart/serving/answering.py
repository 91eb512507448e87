"""POST /predict and POST /explain: body in, images decoded in a pool, network in its thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import JSONResponse

from warmstart.nouns import Nouns, nouns_of
from warmstart.records.answer import Answer
from warmstart.records.inputs import Kind
from warmstart.serving.batching import Batcher
from warmstart.serving.inputs import (
    CLIPS,
    IMAGES,
    ROWS,
    TEXTS,
    Sent,
    Takes,
    clips_in,
    images_in,
    rows_in,
    texts_in,
)
from warmstart.serving.intake import Intake
from warmstart.serving.metrics import Metrics, outcome_of
from warmstart.serving.model import Limits, Picture, Served, Unread
from warmstart.serving.problems import Problem
from warmstart.serving.wording import heat_words, own_keys, words

Done = TypeVar("Done")
SENT: dict[Kind, tuple[Takes, Callable[[str, bytes, Limits], list[Sent]]]] = {
    "image": (IMAGES, images_in),
    "audio": (CLIPS, clips_in),
    "text": (TEXTS, texts_in),
    "table": (ROWS, rows_in),
}
Batches = Batcher[Picture, Answer]


class Answering:
    """Everything between a request with images and its answer."""

    def __init__(
        self,
        served: Served,
        limits: Limits,
        batcher: Batches,
        pool: ThreadPoolExecutor,
        metrics: Metrics,
    ) -> None:
        self._served = served
        self._limits = limits
        self._batcher = batcher
        self._pool = pool
        self._metrics = metrics
        self._intake = Intake(limits)
        self._takes, self._sent_in = SENT[served.kind]

    async def predict(self, request: Request) -> JSONResponse:
        """Which class each image shows, and how likely that is."""
        async with self._intake.body(request, self._takes) as body:
            sent = await self._images(request, body)
            with self._batcher.room(len(sent)):
                read = await self._decoded(sent)
                pictures = [one for one in read if isinstance(one, Picture)]
                answers = iter(await self._batcher.ask(pictures))
        found = [
            self._unread(one) if isinstance(one, Unread) else self._named(one, next(answers))
            for one in read
        ]
        return JSONResponse({"answers": found})

    async def explain(self, request: Request) -> JSONResponse:
        """What in one image mattered for its label."""
        async with self._intake.body(request, self._takes) as body:
            sent = await self._images(request, body)
            if len(sent) != 1:
                told = f"{self._nouns.count(len(sent))} were sent; one at a time is explained"
                raise Problem(422, told)
            explain = self._served.explain
            if explain is None:
                raise Problem(422, self._served.no_heat)
            with self._batcher.room(1):
                (picture,) = await self._decoded(sent)
                if isinstance(picture, Unread):  # then `_decoded` has raised
                    raise self._refused([picture])
                heat = await self._batcher.alone(lambda: explain(picture))
        return JSONResponse(
            {
                "label": heat.label,
                "words": heat_words(heat.label, heat.probability, heat.covered),
                "grid": [[round(float(value), 3) for value in row] for row in heat.grid],
                "box": [round(side, 4) for side in picture.box],
            }
        )

    async def thumbnail(self, index: int) -> bytes | None:
        """A small picture of a training example, None where it is gone."""
        return await self._beside(lambda: self._served.thumbnail(index))

    async def _images(self, request: Request, body: bytes) -> list[Sent]:
        kind = request.headers.get("content-type", "")
        return await self._beside(lambda: self._sent_in(kind, body, self._limits))

    async def _decoded(self, sent: Sequence[Sent]) -> list[Picture | Unread]:
        """Raises: Problem 413 or 422 where not one of them could be read."""
        decode = self._served.decode
        works = [partial(decode, one.payload, one.name) for one in sent]
        read = await asyncio.gather(*map(self._beside, works))
        lost = [one for one in read if isinstance(one, Unread)]
        for _ in lost:
            self._metrics.saw_image("unreadable")
        if len(lost) == len(read):
            raise self._refused(lost)
        return list(read)

    async def _beside(self, work: Callable[[], Done]) -> Done:
        """Work that must not hold up the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _named(self, picture: Picture, answer: Answer) -> dict[str, Any]:
        self._metrics.saw_image(outcome_of(answer))
        return {
            **own_keys(answer),
            "name": picture.name,
            "label": answer.label,
            "probability": answer.probability,
            "sure": answer.sure,
            "unknown": answer.unknown,
            "words": words(answer, self._nouns),
            "scores": answer.scores,
            "nearest": self._near(answer.nearest),
            "error": None,
        }

    @property
    def _nouns(self) -> Nouns:
        return nouns_of(self._served.kind)

    def _near(self, ids: Sequence[str]) -> list[dict[str, Any]]:
        numbers = [self._served.number(id) for id in ids]
        return [{"index": n, "label": self._served.kin(n)} for n in numbers if n is not None]

    def _unread(self, one: Unread) -> dict[str, Any]:
        return {
            "name": one.name,
            "label": None,
            "probability": None,
            "sure": None,
            "unknown": False,
            "words": f"not {self._nouns.an}",
            "scores": {},
            "nearest": [],
            "error": one.why,
        }

    def _refused(self, lost: Sequence[Unread]) -> Problem:
        status = 413 if all(one.is_too_large for one in lost) else 422
        if len(lost) == 1:
            return Problem(status, lost[0].why)
        many = [{"name": one.name, "error": one.why} for one in lost]
        detail = f"none of {self._nouns.count(len(lost))} could be read"
        return Problem(status, detail, images=many)
