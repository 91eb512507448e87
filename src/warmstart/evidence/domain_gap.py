"""How far is this data from the pretraining data, without having that data?

BatchNorm layers store the mean and variance of every channel over the pretraining data. The
divergence of two normal distributions per channel,

    (m_t - m_s)^2 / (2 s_s^2) + (r - 1 - ln r) / 2,    r = s_t^2 / s_s^2,

compares them with this data: the median over the channels of a block, averaged over the early
and middle blocks. Supports a verdict, never decides one. Sources: Li et al. 2018, "Adaptive
Batch Normalization", §3; Schneider et al. 2020, §3 (moments as domain shift).
"""

from __future__ import annotations

import unicodedata
from bisect import bisect
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from warmstart.evidence.probe import Probe, not_measured
from warmstart.features.batches import readable, to_tensor
from warmstart.modalities import text as modalities_text
from warmstart.network.batch_norm import NormStatistics, norm_statistics
from warmstart.records.findings import Finding
from warmstart.records.inputs import TextInputs
from warmstart.records.summary import Evidence
from warmstart.training.dataset import TrainingDataset

Values = NDArray[np.float64]
BOOTS = 50
DEPTH = 0.6  # early and middle blocks

# Distances of 14 image sets by base model (bench/results/distances.json). With EfficientNet-Lite0
# photographs of things and animals lie at 0.01 to 0.04, rubbish on a white board at 0.08,
# hands, cells, sketches and skin at 0.11 to 0.36.
_LITE0 = (0.011, 0.019, 0.020, 0.022, 0.032, 0.034, 0.035, 0.035, 0.081)
REFERENCES = {"lite0": (*_LITE0, 0.110, 0.176, 0.241, 0.315, 0.361)}


def domain_gap(
    layers: Sequence[NormStatistics], n_blocks: int, rng: np.random.Generator, base: str = ""
) -> Evidence:
    """Measure the gap on `layers` of the early and middle blocks; no value without BatchNorm.

    `base` names the base model, for the percentile among its reference sets. The bias of few
    images is subtracted: a bootstrap's mean distance exceeds that of the images themselves by
    about as much as theirs exceeds the truth.
    """
    if not layers:
        reason = "Not available: this network keeps no statistics of its pretraining data."
        return not_measured("domain_gap", 0, reason)
    n = len(layers[0].mean)
    plain = mean_divergence(layers, np.arange(n))
    boots = [mean_divergence(layers, rng.integers(n, size=n)) for _ in range(BOOTS)]
    bias = float(np.mean(boots)) - plain
    value = max(plain - bias, 0.0)
    spread = 1.96 * float(np.std(boots))
    details: dict[str, float | int | str] = {
        "layers": len(layers),
        "blocks": n_blocks,
        "bias": bias,
    }
    comparison = " (0: the same)."
    reference = REFERENCES.get(base, ())
    if reference:
        percentile = round(100 * bisect(sorted(reference), value) / len(reference))
        details["percentile"] = percentile
        comparison = f", farther than for {percentile} % of 14 reference sets."
    return Evidence(
        name="domain_gap",
        value=value,
        low=max(value - spread, 0.0),
        high=value + spread,
        n=n,
        meaning=(
            f"The network's inner statistics are {value:.2f} away from those of its pretraining "
            f"data{comparison}"
        ),
        details=details,
    )


def divergences(layer: NormStatistics, rows: NDArray[np.intp]) -> Values:
    """Divergence of each channel over the images `rows`. Shapes: returns (C,)."""
    mean = layer.mean[rows].mean(axis=0)
    variance = np.maximum(layer.square[rows].mean(axis=0) - mean**2, 0.0)
    source = layer.source_var + 1e-12
    ratio = (variance + 1e-6 * source) / source
    divergence: Values = 0.5 * (mean - layer.source_mean) ** 2 / source
    divergence += 0.5 * (ratio - 1 - np.log(ratio))
    return divergence


def mean_divergence(layers: Sequence[NormStatistics], rows: NDArray[np.intp]) -> float:
    """Median over the channels of a block, mean over the blocks, from the images `rows`."""
    by_block: dict[int, list[Values]] = {}
    for layer in layers:
        by_block.setdefault(layer.block, []).append(divergences(layer, rows))
    return float(np.mean([np.median(np.concatenate(block)) for block in by_block.values()]))


def measure_domain_gap(probe: Probe) -> Evidence:
    """BatchNorm's statistics against these images, in early and middle blocks."""
    training_data = probe.training_data
    network, rng = training_data.extracted.network, np.random.default_rng([training_data.seed, 5])
    n_blocks = max(1, round(DEPTH * len(network.blocks)))
    layers = norm_statistics(network, to_tensor(probe.images, training_data.prep), n_blocks)
    return domain_gap(layers, n_blocks, rng, training_data.base.name if training_data.base else "")


# ---- Texts: can the base model read these texts at all?
#
# A text in a foreign alphabet is a row of unknown tokens, and the network sees only how many. A
# foreign language in a familiar alphabet is spelled out in short tokens: the more tokens per
# character, the fewer of its words are in the vocabulary.

UNKNOWN = 0.05  # share of unknown tokens from which the language is reported, v0
# Tokens per character, spaces included. With all-MiniLM-L6-v2 English questions take .23 and film
# reviews .23, German .36, Polish .46, Russian .87, Arabic .83.
SPELLED = 0.33
TEXT_BOOTS = 200
TEXTS = 2000  # texts that are counted; of more the first ones, for the figures are shares
SPECIAL = 2  # tokens at the beginning and the end that stand for no text


def read_texts(
    training_data: TrainingDataset, inputs: TextInputs
) -> tuple[Evidence, tuple[Finding, ...]]:
    """The evidence `domain_gap` of texts, and findings about their language and length.

    No label and no test text is used.
    """
    labelled = training_data.labelled
    examples = labelled.learn[: labelled.n_train][:TEXTS]
    rows: list[tuple[int, int, int, int]] = []
    in_windows, truncated = list[str](), list[str]()
    for id, text in modalities_text.texts_of(readable(training_data.collection, examples)):
        tokens = modalities_text.all_tokens(text, inputs.tokenizer)
        n_unknown = sum(token == inputs.unknown for token in tokens)
        n_dense = sum(unicodedata.east_asian_width(c) in "WF" and c.isalpha() for c in text)
        rows.append((max(len(tokens) - SPECIAL, 0), n_unknown, len(text), n_dense))
        if len(tokens) > inputs.window:
            is_cut = modalities_text.is_cut(len(tokens), inputs)
            (truncated if is_cut else in_windows).append(id)
    counts = np.array(rows, np.int64).reshape(len(rows), 4)
    evidence = text_domain_gap(counts, np.random.default_rng([training_data.seed, 11]))
    findings = list[Finding]()
    if warning := str(evidence.details.get("warning", "")):
        sentence = (
            f"{warning[0].upper()}{warning[1:]}. It can tell punctuation, digits and lengths apart "
            "more than words; name a base model that was trained on the language with --base "
            "transformers:FOLDER."
        )
        findings.append(Finding(kind="language", sentence=sentence))
    for ids, is_cut in ((in_windows, False), (truncated, True)):
        if ids:
            findings.append(_long_texts(ids, len(rows), inputs, is_cut))
    return evidence, tuple(findings)


def text_domain_gap(counts: NDArray[np.int64], rng: np.random.Generator) -> Evidence:
    """The domain gap of texts: the share of tokens that are unknown.

    Shapes: counts (n, 4) of each text: its tokens without the special ones, of them unknown, its
    characters, of them letters in scripts without spaces (Chinese, Japanese …), where one token
    per character is usual. Details: `tokens_per_char` over texts written with spaces (0 where there
    are none); `warning` where either figure says that the base model does not know the language.
    """
    n = len(counts)
    tokens, unknown, chars, dense = counts.T
    value = _share(unknown, tokens)
    boots = [rng.integers(n, size=n) for _ in range(TEXT_BOOTS)]
    low, high = np.quantile([_share(unknown[b], tokens[b]) for b in boots], (0.025, 0.975))
    spaced = dense * 3 < chars
    per_char = _share(tokens[spaced], chars[spaced])
    meaning = f"{100 * value:.1f} % of the tokens are unknown to the base model"
    if per_char:
        meaning += f"; {per_char:.2f} tokens per character (a familiar language: about 0.23)"
    details: dict[str, float | int | str] = {"tokens_per_char": round(per_char, 4)}
    if value >= UNKNOWN:
        details["warning"] = (
            f"the base model does not know this language: {100 * value:.0f} % of the tokens are "
            "unknown to it"
        )
    elif per_char >= SPELLED:
        details["warning"] = (
            f"the base model hardly knows this language: it spells words out, {per_char:.2f} "
            "tokens per character (a familiar language: about 0.23)"
        )
    return Evidence(
        name="domain_gap",
        value=value,
        low=float(low),
        high=float(high),
        n=n,
        meaning=f"{meaning}.",
        details=details,
    )


def _share(counts: NDArray[np.int64], totals: NDArray[np.int64]) -> float:
    return float(counts.sum() / max(totals.sum(), 1))


def _long_texts(ids: list[str], n: int, inputs: TextInputs, is_cut: bool) -> Finding:
    """A finding about texts that are read in windows, or of which only the beginning is read."""
    verb, they, their = ("is", "it is", "its") if len(ids) == 1 else ("are", "they are", "their")
    limit = (
        f"{inputs.length} tokens; only {their} beginning is read"
        if is_cut
        else f"{inputs.window} tokens, the context window of the base model; {they} read window by "
        "window and averaged"
    )
    sentence = f"{len(ids):,} of the {n:,} texts {verb} longer than {limit}."
    return Finding(kind="truncated" if is_cut else "windows", sentence=sentence, items=tuple(ids))
