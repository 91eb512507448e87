"""Law 1: the blocks and the head compose to the network: same logits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import (
    EVERY,
    IMAGE_ENCODERS,
    TEXT_ENCODERS,
    cut_once,
    each,
    folder_of,
    inputs_for,
    opened,
)

from warmstart.features.engine import make_engine
from warmstart.modalities.text import token_numbers
from warmstart.network.feature_layers import FeatureExtractor, feature_layers
from warmstart.network.inputs import InputOptions
from warmstart.network.load import load
from warmstart.network.partition import cut
from warmstart.network.segments import as_tensor
from warmstart.network.weights import place, unique_tensors


@each(EVERY)
def test_blocks_neck_and_classifier_give_the_logits_of_the_network(name):
    module, network = cut_once(name)
    inputs = value = inputs_for(name)
    with torch.no_grad():
        if name != "bert-windows":  # the encoder itself takes one window
            expected = as_tensor(module(inputs))
            torch.testing.assert_close(network.logits(inputs), expected, rtol=1e-5, atol=1e-5)
        for block, record in zip(network.blocks, network.record.blocks, strict=True):
            assert tuple(value.shape[1:]) == record.shape_in or name in TEXTS
            value = block.run(network.backbone, value)
            assert tuple(value.shape[1:]) == record.shape_out or name in TEXTS
        vector = network.steps.neck.run(network.backbone, value)
        assert torch.equal(vector, network.features(inputs))
    assert vector.shape[1] == network.record.neck_width
    assert len({block.name for block in network.blocks}) == len(network.blocks) == EVERY[name]


TEXTS = (*TEXT_ENCODERS, "bert-windows")  # of any length


@each(EVERY)
def test_every_tensor_has_one_owner_and_is_the_networks_own(name):
    module, network = cut_once(name)
    state = module.state_dict(keep_vars=True)
    owned = {place(state[tensor]) for tensor in network.owners}
    assert len(owned) == len(network.owners)
    assert owned == {place(tensor) for tensor in unique_tensors(module).values()}
    blocks, others = {block.name for block in network.blocks}, {"neck", "head", "unused"}
    assert set(network.owners.values()) <= blocks | others
    original = {id(parameter) for parameter in module.parameters()}
    for block in network.blocks:
        for part in map(network.backbone.get_submodule, block.modules):
            assert {id(parameter) for parameter in part.parameters()} <= original
    outside = [
        state[tensor].numel()
        for tensor, owner in network.owners.items()
        if owner in others and isinstance(state[tensor], torch.nn.Parameter)
    ]
    total = sum(parameter.numel() for parameter in module.parameters())
    assert sum(block.parameters for block in network.record.blocks) == total - sum(outside)


# ---- encoders of transformers, against the library itself ------------------------------------


def theirs(name):
    from transformers import AutoModel

    return AutoModel.from_pretrained(str(folder_of(name))).eval()


@pytest.mark.parametrize("name", TEXT_ENCODERS)
def test_an_encoder_of_texts_gives_what_transformers_gives(name):
    ids, (_, inputs) = inputs_for(name), opened(name)
    _, network = cut_once(name)
    there = (ids != inputs.pad).long()
    layers = feature_layers(network.record)
    firsts = FeatureExtractor(network, [layer for layer in layers if layer.pool == "first"])
    with torch.inference_mode():
        hidden = theirs(name)(input_ids=ids, attention_mask=there).last_hidden_state
        mean = (hidden * there[..., None]).sum(1) / there.sum(1, keepdim=True)
        torch.testing.assert_close(network.features(ids), mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(firsts(ids)[-1], hidden[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [None, 48])
@pytest.mark.parametrize("name", IMAGE_ENCODERS)
def test_an_encoder_of_images_gives_what_transformers_gives(name, size):
    base = load(f"transformers:{folder_of(name)}", inputs=InputOptions(size=size) if size else None)
    network, images = (
        cut(base.module, base.record.preprocessing),
        torch.randn(3, 3, *[size or 32] * 2),
    )
    model = theirs(name)
    options = {} if name.startswith("dinov2") else {"interpolate_pos_encoding": True}
    with torch.no_grad():
        found = model(images, **options)
        vector = found.last_hidden_state[:, 0] if name in ("vit", "deit") else found.pooler_output
        torch.testing.assert_close(network.logits(images), vector, atol=1e-5, rtol=1e-5)
    assert network.record.family == "transformer"


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_depends_neither_on_its_neighbours_nor_on_the_padding(name):
    _, network = cut_once(name)
    inputs = opened(name)[1]
    texts = ("the ball", "a very good soup with bread near the oven", "rain rain", "the ball")
    rows = np.stack([token_numbers(text, inputs) for text in texts])
    extractor = FeatureExtractor(network, feature_layers(network.record))
    run = make_engine("torch", extractor, inputs, 1)
    for whole, turned in zip(run(rows), run(rows[::-1]), strict=True):
        np.testing.assert_array_equal(whole, turned[::-1])
        np.testing.assert_array_equal(whole[0], whole[3])
    wide = np.concatenate([rows, np.full_like(rows, inputs.pad)], axis=1)
    with torch.inference_mode():
        short, long = (extractor(torch.from_numpy(ids).long()) for ids in (rows, wide))
    for one, other in zip(short, long, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


LONG = " ".join(("the ball was near a goal", "wind and rain with cloud") * 5)


@pytest.mark.parametrize("name", TEXT_ENCODERS)
def test_a_long_text_is_the_mean_over_its_windows(name):
    module, inputs = opened(name)
    inputs = replace(inputs, length=64, most=16)
    row = token_numbers(LONG, inputs).reshape(4, 16)
    assert inputs.n_windows == 4
    assert row[:, 0].tolist() == [row[0, 0]] * 4  # [CLS] stands before each
    network, one = cut(module, inputs), cut(module, replace(inputs, length=16))
    rows = torch.from_numpy(row).long()
    n_tokens = (rows != inputs.pad).sum(1, keepdim=True)
    with torch.inference_mode():
        expected = (one.features(rows) * n_tokens).sum(0) / n_tokens.sum()
        found = network.features(rows.reshape(1, 64))[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
