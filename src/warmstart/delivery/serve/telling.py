"""What the server tells of itself: labels, metadata, health, readiness, metrics, thumbnails."""

from __future__ import annotations

from fastapi import Path, Response
from fastapi.responses import JSONResponse

from warmstart.delivery.serve.answering import Answering, Batches
from warmstart.delivery.serve.metrics import CONTENT_TYPE_LATEST, Metrics
from warmstart.delivery.serve.problems import Problem, retry
from warmstart.delivery.serve.served import Served

MOST = 10**9  # an index beyond is no place in any list


class Telling:
    """Routes without a body."""

    def __init__(
        self, served: Served, batcher: Batches, answering: Answering, metrics: Metrics
    ) -> None:
        self._served = served
        self._batcher = batcher
        self._answering = answering
        self._metrics = metrics

    async def labels(self) -> JSONResponse:
        """Class names in the order of the model's outputs."""
        return JSONResponse({"labels": list(self._served.labels)})

    async def metadata(self) -> JSONResponse:
        """What the model is, how often it is right, and what the server takes."""
        return JSONResponse(dict(self._served.metadata))

    async def health(self) -> JSONResponse:
        """Whether the server lives."""
        return JSONResponse({"status": "alive"})

    async def ready(self) -> JSONResponse:
        """Whether it takes another image: not while its queue is full or a pass hangs."""
        if self._batcher.is_stuck:
            raise retry("a pass of the network hangs", 5)
        if self._batcher.is_full:
            raise retry("the queue is full", 1)
        return JSONResponse({"status": "ready"})

    async def metrics(self) -> Response:
        """Counters in Prometheus' text format."""
        return Response(self._metrics.text(), media_type=CONTENT_TYPE_LATEST)

    async def thumbnail(
        self, index: int = Path(ge=0, le=MOST, description="place in data.json")
    ) -> Response:
        """A small JPEG of a training image, if it still is what the model learnt from."""
        found = await self._answering.thumbnail(index)
        if found is None:
            raise Problem(404, "there is no such training image, or it is no longer what it was")
        kept = {"Cache-Control": "private, max-age=86400"}
        return Response(found, media_type="image/jpeg", headers=kept)
