"""Does the data suit the base model: its preprocessing, its domain, its vocabulary?

With another brightness, contrast or channel order than in pretraining a network gives worse
features, and nothing else reveals it. A warning needs a gain that chance does not explain.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from warmstart.evidence.probe import Pixels, Probe, best_left_out, not_measured
from warmstart.features.batches import readable, to_tensor
from warmstart.modalities import text as modalities_text
from warmstart.modalities.image import IMAGE
from warmstart.modalities.registry import modality_of
from warmstart.network.batch_norm import NormStatistics, norm_statistics
from warmstart.network.feature_layers import FeatureExtractor
from warmstart.network.shuffled import forward_images, halve_images
from warmstart.nouns import Nouns
from warmstart.planning import rules
from warmstart.records.findings import Finding
from warmstart.records.inputs import Inputs, TextInputs, pictures
from warmstart.records.summary import Evidence
from warmstart.solve.ridge import Array, Rows
from warmstart.stats.intervals import number_groups, standard_error
from warmstart.tasks.classify import CLASSIFICATION
from warmstart.tasks.task import Target, Truth
from warmstart.tasks.words import Words, points
from warmstart.training.dataset import TrainingDataset

Moments = tuple[tuple[float, ...], tuple[float, ...]]  # mean and std per channel, of 0..1

USUAL: dict[str, Moments] = {
    "mean 0.5, spread 0.5": ((0.5,) * 3, (0.5,) * 3),
    "ImageNet's mean and spread": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "0 to 1": ((0.0,) * 3, (1.0,) * 3),
    "0 to 255": ((0.0,) * 3, (1 / 255,) * 3),
}
SWAPPED = "blue and red exchanged"
CLEARLY_NEARER = 0.7  # of the present distance: BatchNorm's statistics support the alternative
AS_NEAR = 1.5  # of the present distance: up to there they do not contradict it
LEVEL = 0.05  # chance of a false warning, shared among the alternatives
Z_IF_NEARER = 1.0  # where BatchNorm's statistics say the same
LEAST = 0.02  # a gain worth a warning
FIRST_BLOCKS = 3  # whose statistics reveal brightness and contrast, at hardly any cost


def worth_trying(
    present: float, others: Mapping[str, float]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Alternatives about as near to BatchNorm's statistics as the present one, and nearer ones.

    `others` holds the domain gap of the first layers under each. On 14 sets with the right
    preprocessing no alternative comes nearer than 0.76; with ImageNet's or without a mean the
    right one is at 0.66 or nearer on 12, at 1.0 on hands and 1.3 on skin.

    >>> worth_trying(0.9, {"0 to 1": 0.1, "0 to 255": 800.0, "other": 1.0})
    (('other',), ('0 to 1',))
    """
    nearer = tuple(name for name, d in others.items() if d < CLEARLY_NEARER * present)
    near = tuple(n for n, d in others.items() if n not in nearer and d < AS_NEAR * present)
    return near, nearer


def preprocessing(
    present: Sequence[Array],
    others: Mapping[str, Sequence[Array]],
    labels: Truth,
    group_rows: Sequence[Rows],
    nearer: Sequence[str] = (),
    target: Target = CLASSIFICATION,
    nouns: Nouns = IMAGE.nouns,
) -> Evidence:
    """Accuracy gain of the best alternative over the present preprocessing, by paired differences.

    Shapes: kernels (n, n), of several the best counts; labels (n,). `nearer` names the
    alternatives that come nearer to BatchNorm's statistics.
    """
    k, groups = target.n_outputs(labels), number_groups(group_rows)
    n = len(labels)
    now = best_left_out(present, labels, group_rows, k, target).hits(labels)
    gains = {
        name: best_left_out(x, labels, group_rows, k, target).hits(labels) - now
        for name, x in others.items()
    }
    if not gains or len(group_rows) < 2:
        is_alone = "No other usual preprocessing comes nearer to the pretraining data."
        one_group = f"Not measured: the {nouns.many} compared all belong to one group."
        return not_measured("preprocessing", n, one_group if gains else is_alone)
    best = max(gains, key=lambda name: float(gains[name].mean()))
    value, error = float(gains[best].mean()), standard_error(gains[best], groups)
    details: dict[str, float | int | str] = {
        f"gain.{name}": float(g.mean()) for name, g in gains.items()
    }
    return Evidence(
        name="preprocessing",
        value=value,
        low=max(value - 1.96 * error, -1.0),
        high=min(value + 1.96 * error, 1.0),
        n=n,
        meaning=(
            f"With {best}, the same linear probe would "
            + (f"gain {points(value)} points." if value > 0 else f"lose {points(-value)} points.")
        ),
        details={**details, "best": best, "error": error, "nearer": int(best in nearer)},
    )


def is_open(evidence: Evidence) -> bool:
    """Whether more images are worthwhile: a gain that may or may not be chance."""
    if evidence.value is None:
        return False
    return evidence.value > 0 and evidence.value > 0.5 * float(evidence.details["error"])


def warning(
    evidence: Evidence, words: Words = CLASSIFICATION.words, nouns: Nouns = IMAGE.nouns
) -> Finding | None:
    """A finding where an alternative is clearly better, else None."""
    value, details = evidence.value, evidence.details
    if value is None or value < LEAST:
        return None
    n_alternatives = sum(name.startswith("gain.") for name in details)
    z = Z_IF_NEARER if details["nearer"] else float(-ndtri(LEVEL / n_alternatives))
    if value - z * float(details["error"]) <= 0:
        return None
    best = str(details["best"])
    return Finding(
        kind="preprocessing",
        sentence=(
            f"The preprocessing of the {nouns.many} does not seem to be the base model's: with "
            f"{best} the same linear probe gains {100 * value:.0f} points of {words.score} "
            f"({nouns.count(evidence.n)}). Use the base model's own preprocessing."
        ),
        items=(best,),
    )


def all_grey(images: np.ndarray) -> bool:
    """Whether exchanging channels changes nothing. Shapes: images (n, H, W, C)."""
    return images.shape[-1] == 1 or bool((images[..., 0] == images[..., -1]).all())


def try_preprocessing(probe_of: Callable[[int], Probe]) -> Evidence:
    """The present preprocessing against usual alternatives that may be better."""
    few, many = rules.PREPROCESSING_STAGES
    probe = probe_of(few)
    blind, nearer = _worth_trying(probe)
    evidence = None if nearer else _compare_preprocessings(probe, blind, nearer)
    if evidence is None or is_open(evidence):
        evidence = _compare_preprocessings(probe_of(many), (*blind, *nearer), nearer)
    return evidence


def _compare_preprocessings(probe: Probe, names: Sequence[str], nearer: Sequence[str]) -> Evidence:
    """Compare on images of half the size: a quarter of the work, the same colours."""
    extractor = probe.extractor()
    images = halve_images(extractor, probe.images, probe.normalise())
    others = {name: _kernels_under(probe, extractor, images, name) for name in names}
    present = _kernels_under(probe, extractor, images, None) if names else probe.cached()
    rows, labelled = (probe.labels(), probe.group_rows()), probe.training_data.labelled
    return preprocessing(present, others, *rows, nearer, labelled.target, labelled.nouns)


def _worth_trying(probe: Probe) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Alternatives to compare, and those that come nearer to BatchNorm's statistics.

    Exchanged channels always; normalisations where BatchNorm's statistics do not contradict them,
    or where there are none.
    """
    inputs = probe.training_data.prep
    if not modality_of(inputs).has_pixels:
        return (), ()
    prep = pictures(inputs)
    names = () if all_grey(probe.images) else (SWAPPED,)
    if prep.channels != 3 or prep.ranges:  # bands are scaled by their own values
        return (), ()
    others = [
        name
        for name, moments in USUAL.items()
        if not np.allclose((prep.mean, prep.std), moments, atol=0.02)
    ]
    now = _first_blocks(probe, prep)
    if not now:
        return (*names, *others), ()
    rows = np.arange(len(now[0].mean))
    gaps = {}
    for name in others:
        mean, std = USUAL[name]
        layers = _first_blocks(probe, replace(prep, mean=mean, std=std))
        gaps[name] = mean_divergence(layers, rows)
    near, nearer = worth_trying(mean_divergence(now, rows), gaps)
    return (*names, *near), nearer


def _first_blocks(probe: Probe, prep: Inputs) -> tuple[NormStatistics, ...]:
    few = to_tensor(probe.images[: rules.FIRST_BLOCKS_IMAGES], prep)
    return norm_statistics(probe.training_data.extracted.network, few, FIRST_BLOCKS)


def _kernels_under(
    probe: Probe, extractor: FeatureExtractor, images: Pixels, name: str | None
) -> list[Array]:
    """Kernels of the network under another preprocessing, or the present one (None)."""
    prep = probe.training_data.prep
    if name == SWAPPED:
        images = np.ascontiguousarray(images[..., ::-1])
    elif name is not None:
        mean, std = USUAL[name]
        prep = replace(pictures(prep), mean=mean, std=std)
    features = forward_images(extractor, images, partial(to_tensor, inputs=prep))
    return probe.training_data.kernels(features)


# ---- Domain gap: how far is this data from the pretraining data, without having that data?
#
# BatchNorm layers store the mean and variance of every channel over the pretraining data. The
# divergence of two normal distributions per channel,
#
#     (m_t - m_s)^2 / (2 s_s^2) + (r - 1 - ln r) / 2,    r = s_t^2 / s_s^2,
#
# compares them with this data: the median over the channels of a block, averaged over the early
# and middle blocks. Supports a verdict, never decides one. Sources: Li et al. 2018, "Adaptive
# Batch Normalization", §3; Schneider et al. 2020, §3 (moments as domain shift).


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
