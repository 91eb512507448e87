"""Can the base model read these texts at all?

A text in a foreign alphabet is a row of unknown tokens, and the network sees only how many. A
foreign language in a familiar alphabet is spelled out in short tokens: the more tokens per
character, the fewer of its words are in the vocabulary.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from warmstart.features.batches import readable
from warmstart.modalities import text as modalities_text
from warmstart.records.data import Finding
from warmstart.records.inputs import TextInputs
from warmstart.records.summary import Evidence
from warmstart.training.dataset import TrainingDataset

Counts = NDArray[np.int64]
UNKNOWN = 0.05  # share of unknown tokens from which the language is reported, v0
# Tokens per character, spaces included. With all-MiniLM-L6-v2 English questions take .23 and film
# reviews .23, German .36, Polish .46, Russian .87, Arabic .83.
SPELLED = 0.33
BOOTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCounts:
    """Tokens of each text. Shapes: each (n,).

    `tokens` without the special ones; `ood` of them unknown; `chars` of the text; `dense` of them
    in scripts without spaces (Chinese, Japanese …), where one token per character is usual.
    """

    tokens: Counts
    ood: Counts
    chars: Counts
    dense: Counts


def text_domain_gap(counts: TokenCounts, rng: np.random.Generator) -> Evidence:
    """The domain gap of texts: the share of tokens that are unknown.

    Details: `tokens_per_char` over texts written with spaces (0 where there are none), and
    `warning` where either figure says that the base model does not know the language.
    """
    n = len(counts.tokens)
    value = _share(counts.ood, counts.tokens)
    boots = [rng.integers(n, size=n) for _ in range(BOOTS)]
    shares = [_share(counts.ood[rows], counts.tokens[rows]) for rows in boots]
    low, high = np.quantile(shares, (0.025, 0.975))
    spaced = counts.dense * 3 < counts.chars
    per_char = _share(counts.tokens[spaced], counts.chars[spaced])
    text = warning(value, per_char)
    meaning = f"{100 * value:.1f} % of the tokens are unknown to the base model"
    if per_char:
        meaning += f"; {per_char:.2f} tokens per character (a familiar language: about 0.23)"
    details: dict[str, float | int | str] = {"tokens_per_char": round(per_char, 4)}
    if text:
        details["warning"] = text
    return Evidence(
        name="domain_gap",
        value=value,
        low=float(low),
        high=float(high),
        n=n,
        meaning=f"{meaning}.",
        details=details,
    )


def warning(unknown: float, per_char: float) -> str:
    """Why the base model does not know the language; empty where it does.

    >>> warning(0.65, 0.0)
    'the base model does not know this language: 65 % of the tokens are unknown to it'
    >>> warning(0.0, 0.23)
    ''
    """
    if unknown >= UNKNOWN:
        return (
            f"the base model does not know this language: {100 * unknown:.0f} % of the tokens are "
            "unknown to it"
        )
    if per_char >= SPELLED:
        return (
            f"the base model hardly knows this language: it spells words out, {per_char:.2f} "
            "tokens per character (a familiar language: about 0.23)"
        )
    return ""


def language(evidence: Evidence) -> tuple[Finding, ...]:
    """The finding behind a warning."""
    text = str(evidence.details.get("warning", ""))
    if not text:
        return ()
    sentence = (
        f"{text[0].upper()}{text[1:]}. It can tell punctuation, digits and lengths apart more "
        "than words; name a base model that was trained on the language with --base "
        "transformers:FOLDER."
    )
    return (Finding(kind="language", sentence=sentence),)


def _long_texts(ids: list[str], n: int, inputs: TextInputs, is_cut: bool) -> tuple[Finding, ...]:
    """A finding about texts that are read in windows, or of which only the beginning is read."""
    if not ids:
        return ()
    verb, they, their = ("is", "it is", "its") if len(ids) == 1 else ("are", "they are", "their")
    limit = (
        f"{inputs.length} tokens; only {their} beginning is read"
        if is_cut
        else f"{inputs.window} tokens, the context window of the base model; {they} read window by "
        "window and averaged"
    )
    sentence = f"{len(ids):,} of the {n:,} texts {verb} longer than {limit}."
    return (
        Finding(kind="truncated" if is_cut else "windows", sentence=sentence, items=tuple(ids)),
    )


def _share(counts: Counts, totals: Counts) -> float:
    return float(counts.sum() / max(totals.sum(), 1))


# ---- How a base model reads the training texts: evidence and findings.


MOST = 2000  # texts that are counted; of more the first ones, for the figures are shares
SPECIAL = 2  # tokens at the beginning and the end that stand for no text


def read_texts(
    training_data: TrainingDataset, inputs: TextInputs
) -> tuple[Evidence, tuple[Finding, ...]]:
    """The evidence `domain_gap` of texts, and findings about their language and length.

    No label and no test text is used.
    """
    labelled = training_data.labelled
    examples = labelled.learn[: labelled.n_train][:MOST]
    rows: list[tuple[int, int, int, int]] = []
    long: dict[bool, list[str]] = {True: [], False: []}
    for id, text in modalities_text.texts_of(readable(training_data.collection, examples)):
        tokens = modalities_text.all_tokens(text, inputs.tokenizer)
        n_ood = sum(token == inputs.unknown for token in tokens)
        rows.append((max(len(tokens) - SPECIAL, 0), n_ood, len(text), _n_dense(text)))
        if len(tokens) > inputs.window:
            long[modalities_text.is_cut(len(tokens), inputs)].append(id)
    columns = np.array(rows, np.int64).reshape(len(rows), 4).T
    counts = TokenCounts(tokens=columns[0], ood=columns[1], chars=columns[2], dense=columns[3])
    evidence = text_domain_gap(counts, np.random.default_rng([training_data.seed, 11]))
    findings = (
        *language(evidence),
        *_long_texts(long[False], len(rows), inputs, is_cut=False),
        *_long_texts(long[True], len(rows), inputs, is_cut=True),
    )
    return evidence, findings


def _n_dense(text: str) -> int:
    """Number of letters in scripts that need no spaces between words."""
    return sum(unicodedata.east_asian_width(char) in "WF" and char.isalpha() for char in text)
