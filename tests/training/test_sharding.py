"""What cannot be shared between processes; what can is tested by several of them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from warmstart.distributed import ProcessGroup
from warmstart.errors import PlanError
from warmstart.training import trainer
from warmstart.training.sharding import ShardedDataParallel


class Scaled(nn.Module):
    """A layer with a weight of a single number."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))


def test_a_weight_that_is_one_number_is_refused():
    layer = Scaled()
    with pytest.raises(PlanError, match="scale is a single number, which fsdp cannot shard"):
        ShardedDataParallel(layer, (), layer.state_dict(keep_vars=True), "cpu")


@pytest.mark.parametrize("word", ["fsdp", "pipeline"])
def test_a_scaled_loss_is_for_one_process_or_for_rows_alone(monkeypatch, word):
    chosen = SimpleNamespace(contrastive=False, parallel=word, precision="float16")
    monkeypatch.setattr(trainer, "here", lambda: SimpleNamespace(size=2))
    with pytest.raises(PlanError, match="use bfloat16 or float32, or --parallel data"):
        trainer.choose_parallelism(None, None, chosen, ())


@pytest.mark.parametrize("word", ["fsdp", "pipeline"])
def test_a_torch_that_cannot_write_together_is_named(monkeypatch, word):
    chosen = SimpleNamespace(contrastive=False, parallel=word)
    monkeypatch.setattr(trainer, "here", lambda: SimpleNamespace(size=2))
    monkeypatch.setattr(trainer, "find_spec", lambda _: None)
    with pytest.raises(PlanError, match=f"^--parallel {word} writes joint checkpoints, which"):
        trainer.choose_parallelism(None, None, chosen, ())


@pytest.mark.parametrize("word", ["fsdp", "pipeline"])
def test_processes_that_share_weights_need_a_gpu_each(monkeypatch, word):
    chosen = SimpleNamespace(contrastive=False, parallel=word, precision="float32", device="cuda")
    monkeypatch.setattr(trainer, "here", lambda: ProcessGroup(0, 2, 2))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    says = (
        f"^--parallel {word} needs a GPU for each process, and 2 processes share 1; start at most 1"
    )
    with pytest.raises(PlanError, match=says):
        trainer.choose_parallelism(None, None, chosen, ())
