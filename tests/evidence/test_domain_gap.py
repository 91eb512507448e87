"""How far the data are from the pretraining data: divergences of normal distributions, tokens."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

import tiny_text_encoder
from extraction import collect, scene_of
from tiny import PREP, network
from warmstart.evidence.preprocessing import (
    REFERENCES,
    SPELLED,
    UNKNOWN,
    divergences,
    domain_gap,
    mean_divergence,
    measure_domain_gap,
    read_texts,
    text_domain_gap,
)
from warmstart.evidence.probe import open_probe
from warmstart.features.batches import normalised
from warmstart.network.load import load
from warmstart.training.dataset import arrange


@dataclass(frozen=True)
class Layer:
    block: int
    source_mean: np.ndarray
    source_var: np.ndarray
    mean: np.ndarray
    square: np.ndarray


def layer(rng, n=32, channels=64, shift=0.0, wider=1.0, block=1, positions=49):
    """What a layer sees of n images, each position drawn from the source, moved and widened."""
    mean = rng.normal(size=channels)
    spread = rng.uniform(0.5, 2.0, size=channels)
    shape = (n, channels, positions)
    values = mean[:, None] + spread[:, None] * (shift + np.sqrt(wider) * rng.normal(size=shape))
    return Layer(block, mean, spread**2, values.mean(axis=2), (values**2).mean(axis=2))


def test_a_channel_diverges_as_normal_distributions_do():
    rng = np.random.default_rng(0)
    seen = layer(rng, shift=0.7, wider=2.0)
    rows = np.array([0, 3, 3, 7])
    mean = seen.mean[rows].mean(axis=0)
    variance = seen.square[rows].mean(axis=0) - mean**2
    here = Normal(torch.tensor(mean), torch.tensor(variance).sqrt())
    old = Normal(torch.tensor(seen.source_mean), torch.tensor(seen.source_var).sqrt())
    np.testing.assert_allclose(divergences(seen, rows), kl_divergence(here, old), rtol=1e-4)


def test_the_median_of_a_part_and_the_mean_of_parts():
    rng = np.random.default_rng(1)
    layers = [layer(rng, block=part, shift=part) for part in (1, 1, 2)]
    rows = np.arange(32)
    first = np.median(np.r_[divergences(layers[0], rows), divergences(layers[1], rows)])
    second = np.median(divergences(layers[2], rows))
    assert mean_divergence(layers, rows) == pytest.approx((first + second) / 2)


def test_the_old_data_itself_is_not_far():
    """Few images bring a distance of their own, which is taken off."""
    rng = np.random.default_rng(2)
    plain, value = [], []
    for _ in range(20):
        layers = [layer(rng, n=16, positions=4)]
        result = domain_gap(layers, 1, rng)
        plain.append(mean_divergence(layers, np.arange(16)))
        value.append(plain[-1] - result.details["bias"])
        assert result.low == 0.0
    assert abs(np.mean(value)) < 0.25 * np.mean(plain)


def test_it_grows_with_a_shift_and_with_a_spread():
    rng = np.random.default_rng(3)
    by_shift = [domain_gap([layer(rng, shift=s)], 1, rng).value for s in (0.0, 0.3, 1.0, 3.0)]
    assert by_shift == sorted(by_shift)
    assert by_shift[2] == pytest.approx(0.5, rel=0.1)
    by_spread = [domain_gap([layer(rng, wider=w)], 1, rng).value for w in (1.0, 2.0, 4.0)]
    assert by_spread == sorted(by_spread)
    assert by_spread[2] == pytest.approx((4 - 1 - np.log(4)) / 2, rel=0.1)


def test_the_interval_holds_the_value():
    rng = np.random.default_rng(4)
    result = domain_gap([layer(rng, shift=0.5)], 1, rng)
    assert 0 <= result.low < result.value < result.high
    assert (result.n, result.details["layers"], result.details["blocks"]) == (32, 1, 1)
    assert result.meaning.endswith("pretraining data (0: the same).")
    far = domain_gap([layer(rng, shift=0.6)], 1, rng, "lite0")
    nearer = 100 * np.mean([value < far.value for value in REFERENCES["lite0"]])
    assert 50 < far.details["percentile"] == round(nearer) < 100
    assert f"farther than for {nearer:.0f} % of 14 reference sets" in far.meaning


def test_channels_that_never_vary_stay_finite():
    still = Layer(1, np.zeros(3), np.zeros(3), np.zeros((5, 3)), np.zeros((5, 3)))
    dark = Layer(1, np.zeros(3), np.ones(3), np.zeros((5, 3)), np.zeros((5, 3)))
    for seen in (still, dark):
        result = domain_gap([seen], 1, np.random.default_rng(0))
        assert np.isfinite([result.value, result.low, result.high]).all()


# ---- measured on a network ----


def test_the_gap_is_that_of_the_first_blocks_on_these_images(pictures):
    probe = open_probe(scene_of(pictures))(24)
    result = measure_domain_gap(probe)
    assert (result.name, result.n, result.details["blocks"]) == ("domain_gap", 24, 1)
    module = network("convolutions")
    with torch.no_grad():
        values = module.first(normalised(probe.images, PREP)).double()
    here = Normal(values.mean((0, 2, 3)), values.var((0, 2, 3)).sqrt())
    old = Normal(module.norm.running_mean.double(), module.norm.running_var.double().sqrt())
    slow = np.median(kl_divergence(here, old).numpy())
    assert result.value + result.details["bias"] == pytest.approx(slow, rel=0.05)


@pytest.mark.parametrize("kind", ["attention", "layers"])
def test_networks_that_keep_no_statistics_have_none(kind, pictures):
    result = measure_domain_gap(open_probe(scene_of(pictures, kind))(24))
    assert result.value is result.low is result.high is None
    assert "Not available" in result.meaning


# ---- texts ----


def counts(n=60, unknown=0.0, per_char=0.23, dense=0.0, seed=0):
    """Tokens, unknown ones, characters and letters of dense scripts. Shapes: (n, 4)."""
    chars = np.random.default_rng(seed).integers(100, 400, n)
    tokens = np.round(per_char * chars)
    return np.stack([tokens, np.round(unknown * tokens), chars, dense * chars], 1).astype(np.int64)


@pytest.mark.parametrize(
    ("texts", "word"),
    [
        (counts(), ""),
        (counts(unknown=2 * UNKNOWN), "does not know this language: 10 %"),
        (counts(per_char=SPELLED + 0.01), "hardly knows this language: it spells words out, 0.34"),
        (counts(per_char=SPELLED - 0.01), ""),
        (counts(per_char=1.0, dense=0.5), ""),  # a token a character is usual in Chinese
    ],
)
def test_a_language_that_the_base_model_does_not_know_is_named(texts, word):
    result = text_domain_gap(texts, np.random.default_rng(0))
    assert result.value == texts[:, 1].sum() / texts[:, 0].sum()
    assert result.low <= result.value <= result.high
    warning = result.details.get("warning", "")
    assert (word in warning) if word else not warning
    is_dense = texts[:, 3].any()
    per_char = 0.0 if is_dense else texts[:, 0].sum() / texts[:, 2].sum()
    assert result.details["tokens_per_char"] == pytest.approx(per_char, abs=1e-4)
    assert ("tokens per character" in result.meaning) != is_dense


def test_the_interval_of_unknown_tokens_is_that_of_texts():
    """Half of the texts all unknown: the share varies as a coin does, not as tokens do."""
    texts = np.concatenate([counts(50), counts(50, unknown=1.0)])
    result = text_domain_gap(texts, np.random.default_rng(0))
    assert (result.low, result.high) == pytest.approx((0.4, 0.6), abs=0.04)


@pytest.fixture(scope="module")
def text_inputs(tmp_path_factory):
    folder = tiny_text_encoder.encoder(tmp_path_factory.mktemp("encoder") / "bert")
    return load(f"transformers:{folder}").record.preprocessing


def read_of(path, inputs, texts):
    lines = ["text,label", *(f"{text},{'ab'[n % 2]}" for n, text in enumerate(texts))]
    path.write_text("\n".join(lines) + "\n", "utf-8")
    collection = collect(path, label="label")
    labelled = arrange(collection.record)
    return read_texts(SimpleNamespace(collection=collection, labelled=labelled, seed=0), inputs)


def test_known_texts_have_no_gap_and_foreign_ones_a_finding(text_inputs, tmp_path):
    words = [*tiny_text_encoder.FILLERS]
    known = [f"{a} {b}" for a in words[:5] for b in words[5:]]
    evidence, findings = read_of(tmp_path / "a.csv", text_inputs, known)
    assert (evidence.value, findings) == (0.0, ())
    per_char = 2 * len(known) / sum(map(len, known))
    assert evidence.details["tokens_per_char"] == pytest.approx(per_char, abs=1e-4)
    foreign = [f"{a}{b} гол" for a in "бвгд" for b in "аеиоу"]
    evidence, findings = read_of(tmp_path / "b.csv", text_inputs, foreign)
    assert evidence.value == 1.0
    (finding,) = findings
    assert finding.kind == "language"
    assert finding.sentence.startswith("The base model does not know this language: 100 %")


@pytest.mark.parametrize(("length", "kind"), [(64, "windows"), (8, "truncated")])
def test_long_texts_are_named_and_counted(text_inputs, tmp_path, length, kind):
    inputs = replace(text_inputs, most=8, length=length)
    for n_long, words in ((1, "1 of the 20 texts is longer"), (2, "2 of the 20 texts are longer")):
        texts = [f"{word} goal" for word in tiny_text_encoder.vocabulary()][5:25]
        texts[:n_long] = [f"{text} {'ball ' * 20}" for text in texts[:n_long]]
        _, (finding,) = read_of(tmp_path / "texts.csv", inputs, texts)
        assert finding.kind == kind
        assert len(finding.items) == n_long
        assert finding.sentence.startswith(words)
