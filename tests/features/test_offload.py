"""One part after the other over everything; what is done is not done again."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import pytest

from warmstart.errors import TrainingError
from warmstart.events import drain
from warmstart.features.cache_key import BATCH
from warmstart.features.offload import BlockQueue, OffloadedBlock, clear_belts

CONTENTS = [f"{number:064x}" for number in range(BATCH + 5)]


def feed(contents=CONTENTS):
    for at in range(0, len(contents), BATCH):
        some = contents[at : at + BATCH]
        yield some, np.array([[int(content, 16)] * 3 for content in some], np.uint8)


def add_one(seen, name, rows):
    assert len(rows) == BATCH  # padded: a row must not depend on its neighbours
    seen.append(name)
    values = rows.astype(np.float32) + 1
    return values, [values[:, :2] * 10] if name != "b" else []


def block_queue(folder, seen, names=("a", "b", "c"), **options):
    links = [
        OffloadedBlock(name=name, cost=1, open=lambda n=name: partial(add_one, seen, n))
        for name in names
    ]
    made = BlockQueue(folder=folder / "belts" / "one", links=links, dtype="float32", **options)
    made.folder.parent.mkdir(parents=True, exist_ok=True)
    made.open(CONTENTS)
    return made


def test_rows_go_through_every_link_in_order(tmp_path):
    made = block_queue(tmp_path, seen := [], keeps_last=True)
    drain(made.run(len(CONTENTS), feed))
    assert seen == ["a", "a", "b", "b", "c", "c"]
    contents, rows = zip(*made.rows(), strict=True)
    assert [c for some in contents for c in some] == CONTENTS
    main, first, last = (np.concatenate(column) for column in zip(*rows, strict=True))
    numbers = np.arange(len(CONTENTS), dtype=np.float32)
    assert np.array_equal(main[:, 0], numbers + 3)
    assert np.array_equal(first[:, 1], 10 * (numbers + 1))
    assert np.array_equal(last[:, 1], 10 * (numbers + 3))
    assert {p.name for p in made.folder.iterdir()} == {
        "done.json",
        "main-3.rows",
        "taps-1.rows",
        "taps-2.rows",
        "taps-3.rows",
    }
    made.clear()
    assert not made.folder.exists()


def test_a_part_that_is_done_is_not_done_again(tmp_path):
    made = block_queue(tmp_path, seen := [])
    work = made.run(len(CONTENTS), feed)
    for _ in range(3):  # two batches of the first part, one of the second
        event = next(work)
    assert event.values["block"] == 2
    work.close()
    again = block_queue(tmp_path, seen := [])
    assert again.done.blocks == 1
    drain(again.run(len(CONTENTS), feed))
    assert seen == ["b", "b", "c", "c"]
    assert len([*again.rows()]) == 2


def test_what_one_link_gives_stays_beside_the_taps(tmp_path):
    """Also where a later process goes on; one that wants what has gone begins anew."""
    made = block_queue(tmp_path, [], kept=1)
    work = made.run(len(CONTENTS), feed)
    for _ in range(5):  # two batches of the first and second part, one of the third
        next(work)
    work.close()
    made = block_queue(tmp_path, seen := [], kept=1)
    assert made.done.blocks == 2
    drain(made.run(len(CONTENTS), feed))
    assert seen == ["c", "c"]
    contents, rows = zip(*made.kept_rows(), strict=True)
    assert [c for some in contents for c in some] == CONTENTS
    assert np.array_equal(np.concatenate(rows)[:, 0], np.arange(len(CONTENTS)) + 1.0)
    assert block_queue(tmp_path, [], kept=1).done.blocks == 3
    assert block_queue(tmp_path, [], kept=2).done.blocks == 0


@pytest.mark.parametrize("harm", ["another set", "a file cut short", "a file gone", "no JSON"])
def test_what_does_not_belong_together_is_begun_anew(tmp_path, harm):
    made = block_queue(tmp_path, [], ("a", "b"))
    work = made.run(len(CONTENTS), feed)
    for _ in range(3):
        next(work)
    work.close()
    path = made.folder / "main-1.rows"
    if harm == "another set":
        made.open(CONTENTS[1:])
        assert made.done.blocks == 0
        return
    if harm == "no JSON":
        (made.folder / "done.json").write_text("{")
    elif harm == "a file gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1])
    assert block_queue(tmp_path, [], ("a", "b")).done.blocks == 0


def test_half_precision_that_cannot_hold_a_value_says_which_part(tmp_path):
    def open_it():
        return lambda rows: (np.full((len(rows), 1), 1e6, np.float32), [])

    links = [
        OffloadedBlock(name="stem", cost=1, open=open_it),
        OffloadedBlock(name="top", cost=1, open=open_it),
    ]
    made = BlockQueue(folder=tmp_path / "belts" / "one", links=links, dtype="float16")
    made.folder.mkdir(parents=True)
    with pytest.raises(TrainingError, match=r"part 1 \(stem\) gives 1e\+06.*stream=float32"):
        drain(made.run(len(CONTENTS), feed))


def test_what_was_left_is_thrown_away_unless_it_is_at_work(tmp_path):
    made = block_queue(tmp_path, [], ("a", "b"))
    drain(made.run(len(CONTENTS), feed))
    assert clear_belts(tmp_path, older_s=3600) == 0
    with made.held():
        assert clear_belts(tmp_path) == 0
    time.sleep(0.01)
    assert clear_belts(tmp_path) > 1000
    assert not made.folder.exists()
