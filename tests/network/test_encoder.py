import pytest

import tiny_audio_encoder
from warmstart.errors import ModelError
from warmstart.network.encoder import Encoder
from warmstart.network.load import load
from warmstart.network.partition import cut
from warmstart.records.inputs import TextInputs, WaveInputs

pytest.importorskip("transformers", reason="transformers is not installed")

SAMPLES = WaveInputs(sample_rate=8000, seconds=0.2, is_scaled=True)


def test_an_encoder_has_blocks_and_a_layout():
    base = load(f"transformers:{tiny_audio_encoder.folder_of()}")
    assert isinstance(base.module, Encoder)
    network = cut(base.module, SAMPLES)
    assert {block.layout for block in network.record.blocks} == {base.module.layout}
    steps = base.module.steps(base.module.window_of(SAMPLES))
    assert [block.name for block in network.blocks] == [step.name for step in steps.blocks]


def test_an_encoder_refuses_inputs_of_another_kind(tmp_path):
    import tiny_text_encoder

    texts = load(f"transformers:{tiny_text_encoder.encoder(tmp_path)}")
    with pytest.raises(ModelError, match="takes texts, and its inputs are clips"):
        cut(texts.module, SAMPLES)
    clips = load(f"transformers:{tiny_audio_encoder.folder_of()}")
    assert isinstance(texts.record.preprocessing, TextInputs)
    with pytest.raises(ModelError, match="takes clips, and its inputs are texts"):
        cut(clips.module, texts.record.preprocessing)
