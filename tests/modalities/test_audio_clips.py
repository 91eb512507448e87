"""How clips are drawn follows from their headers, and from those of the training set alone."""

from __future__ import annotations

import numpy as np
import pytest

from audio_clips import tone, wav
from warmstart.errors import DataError
from warmstart.modalities.audio import MAX_SECONDS, MIN_SECONDS, default_sound, sound_of
from warmstart.records.data import Example

RNG = np.random.default_rng(0)


def examples(clips, split="train"):
    """Clips as (seconds, rate) to examples and what loads them."""
    files = {
        f"{split}/{i}": wav(tone(RNG, 440, s, rate), rate) for i, (s, rate) in enumerate(clips)
    }
    result = [Example(id=id, label="a", split=split, sha256=id) for id in files]
    return result, files


def of(*parts):
    listed = [e for result, _ in parts for e in result]
    files = {id: payload for _, held in parts for id, payload in held.items()}
    return sound_of(files.__getitem__, listed)


def test_the_length_is_one_that_nearly_all_fit_in():
    result = of(examples([(0.3 + i / 100, 8000) for i in range(21)]))
    assert (result.sample_rate, result.seconds) == (8000, 0.49)
    assert result == default_sound(8000, 0.49)


def test_length_and_rate_have_bounds():
    assert of(examples([(0.01, 8000)] * 3)).seconds == MIN_SECONDS
    long = of(examples([(MAX_SECONDS + 1, 44_100)] * 2))
    assert (long.seconds, long.sample_rate, long.high) == (MAX_SECONDS, 16_000, 8000)


def test_one_low_rate_among_many_does_not_decide_but_a_tenth_does():
    usual = examples([(0.3, 16_000)] * 30)
    assert of(usual, examples([(0.3, 8000)], "holdout")).sample_rate == 16_000
    assert of(examples([(0.3, 16_000)] * 30 + [(0.3, 8000)])).sample_rate == 16_000
    assert of(examples([(0.3, 16_000)] * 9 + [(0.3, 8000)] * 3)).sample_rate == 8000


def test_the_test_set_is_not_read():
    train, test = examples([(0.3, 8000)] * 4), examples([(2.0, 16_000)] * 40, "test")
    assert of(train, test) == of(train)


def test_damaged_files_are_ignored_unless_all_are():
    (result, files), whole = examples([(0.3, 8000)] * 3), wav(tone(RNG, 440))
    files["train/0"] = whole[:30]
    assert sound_of(files.__getitem__, result).sample_rate == 8000
    with pytest.raises(DataError, match=r"^train/0 is cut off"):
        sound_of(lambda id: whole[:30], result)
    with pytest.raises(DataError, match="no training clip to read"):
        sound_of(lambda id: whole, [])
