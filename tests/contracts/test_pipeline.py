"""A network in pieces or in shares, one a process, learns what it learns in one process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pipeline_process import HALF, model_of, trained, trained_in_double

import tiny
import tiny_audio_encoder
from warmstart.errors import PlanError
from warmstart.network.cut import UnfrozenBlocks, assign_stages
from warmstart.network.feature_layers import feature_layers, layer_width
from warmstart.network.load import load
from warmstart.network.partition import cut
from warmstart.network.surgery import assemble
from warmstart.training.checkpoint import JointCheckpoint

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
SIZE = 2


@pytest.fixture(scope="module")
def piped(tmp_path_factory):
    """A folder with what each of two processes has kept of each network."""
    place = tmp_path_factory.mktemp("piped")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    jobs = []
    for rank in range(SIZE):
        env = {
            **os.environ,
            "RANK": str(rank),
            "WORLD_SIZE": str(SIZE),
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
            "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path]),
        }
        command = [sys.executable, str(HERE / "pipeline_process.py"), str(place), *tiny.KINDS]
        jobs.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    said = [job.communicate(timeout=300)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * SIZE, said
    return place


@pytest.mark.parametrize("word", ["pipeline", "fsdp"])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_pieces_learn_what_the_whole_learns(kind, word, piped):
    plain, n_whole, kept = trained(kind)
    found = [torch.load(piped / f"{kind}-{word}-{r}.pt", weights_only=True) for r in range(SIZE)]
    for one, _ in found:
        assert one.keys() == plain.keys()
        for name, value in plain.items():
            torch.testing.assert_close(one[name], value, atol=2e-6, rtol=1e-5, msg=name)
    shares = [held for _, held in found]
    assert sum(shares) == n_whole  # while training goes on, nobody holds what another one does
    assert min(shares) > 0
    together = JointCheckpoint(piped / f"{kind}-{word}")  # a checkpoint, read by one process
    assert together.keys() == kept.keys()
    for name, value in kept.items():
        torch.testing.assert_close(together[name], value, atol=2e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("kind", tiny.KINDS)
def test_sharing_rows_changes_nothing_but_the_last_bits(kind, piped):
    """In double precision what was rounding is gone; a row left out or counted twice would stay."""
    plain = trained_in_double(kind)
    for rank in range(SIZE):
        found = torch.load(piped / f"{kind}-data-{rank}.pt", weights_only=True)
        assert found.keys() == plain.keys()
        for name, value in plain.items():
            torch.testing.assert_close(found[name], value, atol=1e-9, rtol=1e-9, msg=name)


@pytest.mark.parametrize("word", ["pipeline", "fsdp"])
@pytest.mark.parametrize("kind", tiny.KINDS)
def test_half_formats_are_those_of_the_whole(kind, word, piped):
    plain, full = (trained(kind, precision=p)[0]["losses"] for p in (HALF, "float32"))
    losses = torch.load(piped / f"{kind}-{word}-0-half.pt", weights_only=True)
    torch.testing.assert_close(losses, plain, atol=0, rtol=1e-2)
    assert not torch.equal(losses, full)


def test_a_tensor_that_stands_in_two_pieces_is_refused():
    network, model = model_of("layers")
    linear = [m for m in network.backbone.modules() if isinstance(m, torch.nn.Linear)]
    linear[1].bias = linear[0].bias
    pieces = [range(1, 2), range(2, len(network.blocks) + 1)]
    says = r"are one tensor, which the pipeline would divide; train this network without --parallel"
    with pytest.raises(PlanError, match=says):
        assign_stages(UnfrozenBlocks(model, 0), network.owners, pieces)


def test_a_piece_that_reads_what_another_keeps_is_refused():
    """All layers of WavLM weigh one table of distances, which the first of them holds."""
    pytest.importorskip("transformers")
    base = load(f"transformers:{tiny_audio_encoder.folder_of('wavlm')}")
    network = cut(base.module, base.record.preprocessing)
    top, n = feature_layers(network.record)[-1:], len(network.blocks)
    weight = torch.zeros(2, layer_width(network.record, top[0]))
    model = assemble(network, top, weight, torch.zeros(2))
    owners = {f"backbone.{name}": block for name, block in network.owners.items()}
    with pytest.raises(PlanError, match="rel_attn_embed, which another stage of the pipeline"):
        assign_stages(UnfrozenBlocks(model, 0), owners, [range(1, n), range(n, n + 1)])
    assert assign_stages(UnfrozenBlocks(model, 0), owners, [range(1, n + 1)])
