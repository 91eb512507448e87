"""A new action is one object: the freezing law, the ledger, plans and pages hold for it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

import tiny
import warmstart
from hue_images import fill
from warmstart.cli.main import main
from warmstart.network import freeze
from warmstart.network.ledger import take_digests, violations
from warmstart.network.partition import cut
from warmstart.network.weights import unique_tensors
from warmstart.records.block_actions import ACTIONS, BlockAction
from warmstart.records.network import Ledger
from warmstart.records.run_folder import read_json

SOURCE = Path(warmstart.__file__).parents[1]  # the package and the studio beside it
BIASES = BlockAction(
    name="bias-only",
    moves=lambda tensor, is_update: tensor.endswith("bias"),
    mode="eval",
    words="fine-tuned in its biases",
    row="biases alone",
    short="biases",
    plain="fine-tuned (biases)",
    color="tuned",
)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(ACTIONS, BIASES.name, BIASES)


def test_a_toy_action_freezes_all_but_the_biases():
    """With weight decay and `train()` between the steps; statistics of norms stay too."""
    network = cut(tiny.network(), tiny.PREP)
    model, owners = network.backbone, network.owners
    actions = {block.name: "bias-only" for block in network.blocks}
    before = {name: t.detach().clone() for name, t in unique_tensors(model).items()}
    digests = take_digests(network)
    groups = freeze.groups(model, actions, owners, dict.fromkeys(actions, 0.1))
    optimizer = torch.optim.AdamW(groups, lr=0.1, weight_decay=0.5)
    inputs = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with freeze.FrozenBlocks(model, actions, owners):
        for _ in range(3):
            model.train()
            optimizer.zero_grad()
            features = model(inputs)
            cross_entropy(features, torch.tensor([0, 1, 2, 1])).backward()
            optimizer.step()
    after = unique_tensors(model)
    in_blocks = [name for name in before if owners.get(name) in actions]
    changed = {name for name in in_blocks if not torch.equal(before[name], after[name])}
    assert changed == {name for name in in_blocks if name.endswith("bias")}
    assert violations(digests, network, actions) == ()
    with torch.no_grad():
        after["first.weight"].add_(1)
    assert violations(digests, network, actions) == ("first.weight",)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("photos"), {"blue": 12, "green": 12, "red": 12})


def test_a_run_trains_the_biases_of_a_block_alone(photos, tmp_path):
    run = tiny.fit(
        photos,
        base=tiny.weights(tmp_path),
        arch=tiny.ARCH,
        strategy="last:2",
        lr=1e-6,  # less than would change an answer: the trained network ships
        settings={"training.epochs": 5.5556, "input.size": 64, "block.6.action": "bias-only"},
        preprocessing=None,
        out=tmp_path / "run",
    )
    block = run.plan.blocks[5]
    assert (block.action.value, block.action.source) == ("bias-only", "user")
    assert block.lr is not None
    ledger = read_json(run.path / "weights_ledger.json", Ledger)
    rows = [row for row in ledger.rows if row.block == block.name]
    assert {row.fate for row in rows if row.tensor.endswith("bias")} == {"trained"}
    assert {row.fate for row in rows if not row.tensor.endswith("bias")} == {"frozen"}
    assert "biases alone" in (run.path / "report.html").read_text("utf-8")


def test_the_plan_names_it(photos, tmp_path, capsys):
    words = ["fit", str(photos), "--base", str(tiny.weights(tmp_path)), "--arch", tiny.ARCH]
    words += ["--strategy", "last:2", "--budget", "fast", "--dry-run"]
    words += ["--out", str(tmp_path / "plan.toml")]
    assert main([*words, "--set", "block.2.action=thawed"]) == 2
    assert "there are frozen, tuned, low-rank, fresh, bias-only." in capsys.readouterr().err
    assert main([*words, "--set", "block.2.action=bias-only"]) == 0
    assert "biases" in capsys.readouterr().out


def test_no_other_file_asks_for_the_name_of_an_action():
    """Comparisons; "frozen" and "added" are also a depth, a fate and words of the studio."""
    names = {"tuned", "low-rank", "fresh", "replaced"}
    for path in SOURCE.glob("warmstart*/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Compare):
                words = {c.value for c in ast.walk(node) if isinstance(c, ast.Constant)}
                assert not {word for word in words if isinstance(word, str)} & names, path
