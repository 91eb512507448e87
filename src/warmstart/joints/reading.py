"""How a start reads the texts of a scene: evidence, and what has to be said of them."""

from __future__ import annotations

import unicodedata

import numpy as np

from warmstart import tokens
from warmstart.inspection.reading import Read, cut_short, in_windows, language, reading
from warmstart.joints.scene import Scene
from warmstart.joints.texts import texts_of
from warmstart.records import Evidence, Finding, TextInputs

MOST = 2000  # texts that are counted; of more the first ones, for the figures are shares
SPECIAL = 2  # tokens at the beginning and the end that stand for no text


def read_texts(scene: Scene, inputs: TextInputs) -> tuple[Evidence, tuple[Finding, ...]]:
    """The evidence `distance` of texts, and findings over their language and length.

    No label and no test text is looked at.
    """
    arranged = scene.arranged
    examples = arranged.learn[: arranged.n_train][:MOST]
    rows: list[tuple[int, int, int, int]] = []
    long: dict[bool, list[str]] = {True: [], False: []}
    for id, text in texts_of(scene.collection, examples):
        found = tokens.all_tokens(text, inputs.tokenizer)
        n_unknown = sum(token == inputs.unknown for token in found)
        rows.append((max(len(found) - SPECIAL, 0), n_unknown, len(text), _n_dense(text)))
        if len(found) > inputs.window:
            long[tokens.is_cut(len(found), inputs)].append(id)
    columns = np.array(rows, np.int64).reshape(len(rows), 4).T
    read = Read(tokens=columns[0], unknown=columns[1], signs=columns[2], dense=columns[3])
    found_out = reading(read, np.random.default_rng([scene.seed, 11]))
    told = (
        *language(found_out),
        *in_windows(long[False], len(rows), inputs.window),
        *cut_short(long[True], len(rows), inputs.length),
    )
    return found_out, told


def _n_dense(text: str) -> int:
    """Signs of writing that needs no spaces between words.

    >>> _n_dense("abc"), _n_dense("你好 ok")
    (0, 2)
    """
    return sum(unicodedata.east_asian_width(sign) in "WF" and sign.isalpha() for sign in text)
