"""Pictures that were sent: decoded before they are believed, kept, put under their class."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

from warmstart.records.data import Split
from warmstart.serving.inputs import Sent
from warmstart.studio.board import labelled
from warmstart.studio.project import Arrived, Delta, Project
from warmstart.studio.work import Seen, Told


@dataclass(frozen=True, slots=True)
class Added:
    """What became of the pictures of one request, and what changed on the board."""

    told: Told
    delta: Delta | None


@dataclass(frozen=True, slots=True)
class Adding:
    """Takes pictures in. `see` decodes one; it is called from several threads."""

    project: Project
    see: Callable[[bytes, str], Seen | str]
    pool: ThreadPoolExecutor

    async def take(
        self, sent: Sequence[Sent], label: str, part: Split, batch: str, folder: str = ""
    ) -> Added:
        """Keep what can be read and is not there yet; the user's files lie in `folder`."""
        loop = asyncio.get_running_loop()
        works = [partial(self.see, one.payload, one.name) for one in sent]
        seen = await asyncio.gather(*(loop.run_in_executor(self.pool, work) for work in works))
        work = partial(self._kept, sent, seen, label, part, batch, folder)
        return await loop.run_in_executor(self.pool, work)

    def _kept(
        self,
        sent: Sequence[Sent],
        seen: Sequence[Seen | str],
        label: str,
        part: Split,
        batch: str,
        folder: str,
    ) -> Added:
        refused, known, ids = [], [], []
        with self.project.lock:
            for one, found in zip(sent, seen, strict=True):
                if isinstance(found, str):
                    refused.append({"name": one.name, "why": found})
                    continue
                there = next(iter(self.project.known(one.payload)), None)
                at = None if there is None else self.project.board.labels.get(there.id)
                if there is not None and (at is not None or there.id in ids):
                    known.append({"name": one.name, "id": there.id, "label": at or label})
                    continue
                if there is not None and there.part != part:
                    self.project.set_part(there.id, part)
                ids.append(there.id if there is not None else self._keep(one, found, part, folder))
            delta = self._put(ids, label, batch) if ids else None
        return Added({"added": ids, "known": known, "refused": refused}, delta)

    def _put(self, ids: Sequence[str], label: str, batch: str) -> Delta:
        return self.project.change(lambda board: replace(labelled(board, ids, label), batch=batch))

    def _keep(self, one: Sent, found: Seen, part: Split, folder: str) -> str:
        arrived = Arrived(
            name=one.name,
            payload=one.payload,
            suffix=found.suffix,
            width=found.width,
            height=found.height,
            part=part,
            source=_path_in(folder, one.name),
        )
        (picture,) = self.project.keep([arrived])
        self.project.keep_small(picture.id, found.small)
        return picture.id


def _path_in(folder: str, name: str) -> str:
    """The path of a file in a folder that a page names: nothing that leads out of it.

    >>> _path_in("train/cat", "1.jpg"), _path_in("../\\x00/cat", "1.jpg"), _path_in("", "1.jpg")
    ('train/cat/1.jpg', 'cat/1.jpg', '1.jpg')
    """
    steps = ("".join(filter(str.isprintable, step)) for step in folder.split("/"))
    return "/".join([*(step for step in steps if step not in ("", ".", "..")), name])
