"""Does the start read these texts at all: words it has no token for, words it spells out.

A tokenizer has one number for everything that it has no piece for; a text in an alphabet that
it never saw is a row of those, and all that its network can tell is how many. A language in a
known alphabet is read, but spelled out in short pieces: the more pieces a letter, the fewer of
its words were ever met.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from warmstart.features.batches import texts_of
from warmstart.modalities import text as modalities_text
from warmstart.records.data import Finding
from warmstart.records.inputs import TextInputs
from warmstart.records.summary import Evidence
from warmstart.training.dataset import TrainingDataset

Counts = NDArray[np.int64]
UNKNOWN = 0.05  # share of unknown tokens from which on it is said, v0
# Tokens a sign, spaces included. With all-MiniLM-L6-v2 English questions take .23 and film
# reviews .23, German .36, Polish .46, Russian .87, Arabic .83.
SPELLED = 0.33
BOOTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """How texts are cut into tokens. Shapes: each (n,), over the texts.

    `tokens` without the special ones; `unknown` of them; `signs` of the text; `dense` of them in
    writing without spaces (Chinese, Japanese …), where a token a sign is usual.
    """

    tokens: Counts
    ood: Counts
    signs: Counts
    dense: Counts


def reading(read: Read, rng: np.random.Generator) -> Evidence:
    """How far the texts are from what the start reads: the share of tokens that it has not.

    Details: `tokens_per_sign` over texts written with spaces (0 where there are none), and
    `warning` where either figure says that the start does not know the language.
    """
    n = len(read.tokens)
    value = _share(read.ood, read.tokens)
    drawn = [rng.integers(n, size=n) for _ in range(BOOTS)]
    low, high = np.quantile([_share(read.ood[d], read.tokens[d]) for d in drawn], (0.025, 0.975))
    spaced = read.dense * 3 < read.signs
    pieces = _share(read.tokens[spaced], read.signs[spaced])
    warned = warning(value, pieces)
    meaning = f"{100 * value:.1f} % of the tokens are unknown to the start"
    if pieces:
        meaning += f"; it takes {pieces:.2f} tokens a sign, where a known language takes about 0.23"
    details: dict[str, float | int | str] = {"tokens_per_sign": round(pieces, 4)}
    if warned:
        details["warning"] = warned
    return Evidence(
        name="domain_gap",
        value=value,
        low=float(low),
        high=float(high),
        n=n,
        meaning=f"{meaning}.",
        details=details,
    )


def warning(unknown: float, pieces: float) -> str:
    """What the figures say against the start; nothing where it reads the texts.

    >>> warning(0.65, 0.0)
    'the start does not know this language: 65 % of the tokens are unknown to it'
    >>> warning(0.0, 0.23)
    ''
    """
    if unknown >= UNKNOWN:
        return (
            f"the start does not know this language: {100 * unknown:.0f} % of the tokens are "
            "unknown to it"
        )
    if pieces >= SPELLED:
        return (
            f"the start hardly knows this language: it spells it out, {pieces:.2f} tokens a sign "
            "where a known one takes about 0.23"
        )
    return ""


def language(found: Evidence) -> tuple[Finding, ...]:
    """The finding behind a warning."""
    warned = str(found.details.get("warning", ""))
    if not warned:
        return ()
    sentence = (
        f"{warned[0].upper()}{warned[1:]}. What it can tell apart are signs of punctuation, "
        "figures and lengths more than words; a start that learnt the language is named with "
        "--base transformers:FOLDER."
    )
    return (Finding(kind="language", sentence=sentence),)


def in_windows(ids: list[str], n: int, window: int) -> tuple[Finding, ...]:
    """A finding over texts that are longer than what the start reads at a time.

    >>> in_windows(["7"], 40, 256)[0].sentence
    '1 of the 40 texts is longer than 256 tokens, which the start reads at a time; it is read in windows of so many, and their mean counts.'
    """  # noqa: E501
    if not ids:
        return ()
    verb, they = ("is", "it is") if len(ids) == 1 else ("are", "they are")
    sentence = (
        f"{len(ids):,} of the {n:,} texts {verb} longer than {window} tokens, which the start "
        f"reads at a time; {they} read in windows of so many, and their mean counts."
    )
    return (Finding(kind="windows", sentence=sentence, items=tuple(ids)),)


def cut_short(ids: list[str], n: int, length: int) -> tuple[Finding, ...]:
    """A finding over texts of which only the first `length` tokens are read.

    >>> cut_short(["7"], 40, 256)[0].sentence
    '1 of the 40 texts is longer than 256 tokens; of it only the beginning is read.'
    """
    if not ids:
        return ()
    verb, of = ("is", "it") if len(ids) == 1 else ("are", "these")
    sentence = (
        f"{len(ids):,} of the {n:,} texts {verb} longer than {length} tokens; of {of} only the "
        "beginning is read."
    )
    return (Finding(kind="truncated", sentence=sentence, items=tuple(ids)),)


def _share(part: Counts, whole: Counts) -> float:
    return float(part.sum() / max(whole.sum(), 1))


# ---- How a start reads the texts of a scene: evidence, and what has to be said of them.


MOST = 2000  # texts that are counted; of more the first ones, for the figures are shares
SPECIAL = 2  # tokens at the beginning and the end that stand for no text


def read_texts(
    training_data: TrainingDataset, inputs: TextInputs
) -> tuple[Evidence, tuple[Finding, ...]]:
    """The evidence `domain_gap` of texts, and findings over their language and length.

    No label and no test text is looked at.
    """
    labelled = training_data.labelled
    examples = labelled.learn[: labelled.n_train][:MOST]
    rows: list[tuple[int, int, int, int]] = []
    long: dict[bool, list[str]] = {True: [], False: []}
    for id, text in texts_of(training_data.collection, examples):
        found = modalities_text.all_tokens(text, inputs.tokenizer)
        n_ood = sum(token == inputs.unknown for token in found)
        rows.append((max(len(found) - SPECIAL, 0), n_ood, len(text), _n_dense(text)))
        if len(found) > inputs.window:
            long[modalities_text.is_cut(len(found), inputs)].append(id)
    columns = np.array(rows, np.int64).reshape(len(rows), 4).T
    read = Read(tokens=columns[0], ood=columns[1], signs=columns[2], dense=columns[3])
    found_out = reading(read, np.random.default_rng([training_data.seed, 11]))
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
