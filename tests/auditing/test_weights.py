"""`audit`: fates of tensors by their bytes, whatever wrapped their names."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tiny import network
from warmstart.auditing.weights import audit, unify
from warmstart.cli.main import main
from warmstart.network.weights import read_weights


def state_of(module=None):
    return {n: t.clone() for n, t in (module or network()).state_dict().items()}


@pytest.fixture
def base(tmp_path):
    """A start as a file: two convolutions, two BatchNorms, a linear output."""
    torch.save(state_of(), tmp_path / "base.pt")
    return tmp_path / "base.pt"


def compare(state, base, name="model.pt"):
    """Save a state beside the start and audit it."""
    path = base.with_name(name)
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return audit(str(path), str(base))


def states(result):
    return {group.name: group.state for group in result.groups}


def numel(state):
    return sum(tensor.numel() for tensor in state.values())


def test_a_copy_is_the_same_to_the_byte(base):
    result = compare(state_of(), base)
    assert set(states(result).values()) == {"frozen"}
    assert list(states(result)) == ["first", "norm", "second", "again", "out"]
    assert (result.same.tensors, result.same.numbers) == (16, numel(state_of()))
    assert {row.fate for row in result.rows} == {"frozen"}
    assert all(row.before == row.after for row in result.rows)
    assert all(group.change == 0 for group in result.groups)
    assert result.carried == 1


def test_what_moved_is_told_with_its_relative_size(base):
    state = state_of()
    before = state["second.weight"].clone()
    state["second.weight"] *= 1.1
    result = compare(state, base)
    (group,) = [g for g in result.groups if g.name == "second"]
    assert (group.state, group.weights, group.weights_same) == ("moved", 2, 1)
    length = torch.cat([before.flatten(), state["second.bias"]]).norm()
    change = (state["second.weight"] - before).norm() / length
    assert group.change == pytest.approx(float(change), rel=1e-5)
    assert (result.moved.tensors, result.moved.numbers) == (1, before.numel())
    (row,) = [r for r in result.rows if r.fate == "trained"]
    assert (row.tensor, row.block, row.buffer) == ("second.weight", "second", False)
    assert row.before != row.after


def test_weights_that_stay_while_statistics_move_were_frozen_in_name_only(base):
    """The mistake itself: every parameter frozen, BatchNorm left in training mode."""
    module = network().requires_grad_(False)
    module.norm.train()
    with torch.no_grad():
        module(torch.rand(4, 3, 32, 32))
    result = compare(state_of(module), base)
    assert states(result) == {
        "first": "frozen",
        "norm": "frozen in name only",
        "second": "frozen",
        "again": "frozen",
        "out": "frozen",
    }
    (group,) = [g for g in result.groups if g.name == "norm"]
    assert (group.weights, group.weights_same) == (2, 2)
    assert (group.statistics, group.statistics_same) == (3, 0)
    assert group.change == 0
    assert [row.tensor for row in result.rows if row.buffer and row.fate == "trained"] == [
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    ]


def test_a_new_output_is_another_shape_and_what_is_on_one_side_only_is_said(base):
    state = state_of()
    state["out.weight"], state["out.bias"] = torch.zeros(3, 16), torch.zeros(3)
    state["extra.weight"] = torch.zeros(2, 2)
    del state["again.running_var"]
    result = compare(state, base)
    assert states(result)["out"] == "another shape"
    assert states(result)["extra"] == "only in MODEL"
    assert (result.reshaped.tensors, result.only_model.tensors, result.only_base.tensors) == (
        2,
        1,
        1,
    )
    (group,) = [g for g in result.groups if g.name == "again"]
    assert (group.state, group.only_base) == ("frozen", 1)
    fates = {row.tensor: row.fate for row in result.rows}
    assert fates["extra.weight"] == "new"
    assert fates["again.running_var"] == "dropped"
    (row,) = [r for r in result.rows if r.fate == "new"]
    assert (row.before, row.shape) == (None, (2, 2))


def test_no_tensor_is_lost(base):
    """Law 2: the rows add up to both sides."""
    state = state_of()
    state["out.weight"] = torch.zeros(3, 16)
    state["extra.weight"] = torch.zeros(2, 2)
    state.pop("first.bias")
    result = compare(state, base)
    ours = sum(row.numel for row in result.rows if row.fate != "new")
    assert ours == numel(state_of())
    fates = [row.fate for row in result.rows]
    assert len(fates) - fates.count("dropped") == len(state)
    assert sum(
        t.tensors
        for t in (result.same, result.moved, result.reshaped, result.only_model, result.only_base)
    ) == len(fates)


@pytest.mark.parametrize(
    "wrap",
    ["module.{}", "model.{}", "_orig_mod.module.{}", "model.backbone.{}", "backbone.{}", "{}"],
)
@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_wrappers_around_the_names_do_not_matter(base, wrap, name):
    state = {wrap.format(n): t for n, t in state_of().items()}
    state["head.weight"] = torch.zeros(1)  # beside them, so that no prefix is common to all
    result = compare(state, base, name)
    assert (result.same.tensors, result.only_model.tensors, result.only_base.tensors) == (16, 1, 0)
    assert [g.name for g in result.groups][:5] == ["first", "norm", "second", "again", "out"]


def test_a_prefix_stays_where_names_would_become_equal():
    names = unify({"model.fc.weight": torch.ones(1), "module.fc.weight": torch.ones(1)})
    assert list(names) == ["model.fc.weight", "module.fc.weight"]


def test_layers_are_in_the_order_of_people_where_both_files_have_lost_theirs(tmp_path):
    state = {f"blocks.{i}.weight": torch.full((2,), float(i)) for i in range(12)}
    save_file(state, tmp_path / "a.safetensors")
    save_file(state, tmp_path / "b.safetensors")
    result = audit(str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors"))
    assert [group.name for group in result.groups] == [f"blocks.{i}" for i in range(12)]


class Tied(nn.Module):
    """One matrix under two names."""

    def __init__(self):
        super().__init__()
        self.inside, self.outside = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.outside.weight = self.inside.weight


def test_tied_tensors_stand_once_whatever_the_other_side_does(tmp_path):
    state = Tied().state_dict()
    torch.save(state, tmp_path / "base.pt")
    both = compare(state, tmp_path / "base.pt")
    assert [row.tensor for row in both.rows] == ["inside.weight"]
    once = compare({"inside.weight": state["inside.weight"]}, tmp_path / "base.pt")
    assert [row.fate for row in once.rows] == ["frozen"]
    apart = compare({n: t.clone() for n, t in state.items()}, tmp_path / "base.pt")
    assert [row.fate for row in apart.rows] == ["frozen", "frozen"]


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_another_precision_is_rounded_before_it_is_compared(base, kind):
    state = {n: t.to(kind) if t.is_floating_point() else t for n, t in state_of().items()}
    result = compare(state, base)
    assert result.same.tensors == 16
    coarse, fine = ("float32", "float64") if kind == torch.float64 else (str(kind)[6:], "float32")
    assert result.rounded == (f"{fine} to {coarse}",)
    state["second.weight"] *= 1.5
    assert compare(state, base).moved.tensors == 1


def test_counts_of_another_kind_are_compared_as_numbers(base):
    state = state_of()
    state["norm.num_batches_tracked"] = state["norm.num_batches_tracked"].int()
    result = compare(state, base)
    assert (result.moved.tensors, result.rounded) == (0, ("int32 to int64",))


def test_two_designs_have_nothing_in_common(base, capsys):
    state = state_of(nn.Sequential(nn.Linear(3, 2)))
    state["norm.num_batches_tracked"] = torch.tensor(3)  # of one name and shape in any network
    result = compare(state, base)
    assert result.carried == 0
    assert not result.is_related
    assert main(["audit", str(base.with_name("model.pt")), "--base", str(base)]) == 0
    assert "not the same architecture" in capsys.readouterr().out


def test_a_run_is_compared_with_what_it_began_from(finished):
    base = str(finished.plan.base.value)
    result = audit(str(finished.path), base)
    assert result.moved.tensors == 0
    assert result.same.tensors == len(read_weights(finished.path / "model/model.safetensors")) - 4
    assert states(result)["head"] == "only in MODEL"
    assert states(result)["classifier"] == "only in BASE"


def test_a_run_has_the_order_of_its_network(finished, own_run, tmp_path):
    """Both files are sorted by name; the run's ledger is not."""
    groups = list(states(audit(str(finished.path), str(own_run))))
    assert groups[0] == "conv_stem"
    assert groups[-1] == "head"
    (own_run / "weights_ledger.json").unlink()
    unlisted = audit(str(own_run), str(finished.plan.base.value))
    assert set(states(unlisted)) == {*groups, "classifier"}


def test_a_start_by_its_name_needs_no_file(tmp_path):
    from warmstart.network.load import load

    state = state_of(load("lite0").module)
    state["conv_stem.weight"][0] += 1.0
    torch.save({"state_dict": {f"model.{n}": t for n, t in state.items()}}, tmp_path / "m.pt")
    result = audit(str(tmp_path / "m.pt"), "lite0")
    assert states(result)["conv_stem"] == "moved"
    assert (result.moved.tensors, result.only_base.tensors) == (1, 0)
    assert list(states(result))[:3] == ["conv_stem", "bn1", "blocks.0"]


def test_the_record_is_printed_as_json(base, capsys):
    torch.save({n: t + 1 for n, t in state_of().items()}, base.with_name("m.pt"))
    assert main(["audit", str(base.with_name("m.pt")), "--base", str(base), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["moved"]["tensors"] == 16
    assert printed["groups"][0]["name"] == "first"
    assert printed["rows"][0]["fate"] == "trained"


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_change_that_has_no_size_is_none(base, value):
    state, before = state_of(), state_of()
    before["first.weight"][:], before["first.bias"][:] = 0.0, 0.0
    state["first.weight"][:] = value if value else 1.0
    torch.save(before, base)
    (group, *_) = compare(state, base).groups
    assert (group.state, group.change) == ("moved", None)


MISTAKES = {
    "the same twice": ("audit base.pt --base base.pt", "are the same"),
    "the same by another path": ("audit ./base.pt --base base.pt", "are the same"),
    "neither images nor base": ("audit base.pt", "audit needs labelled images, or --base NAME"),
    "two data": ("audit base.pt photos more", "one argument too many"),
    "no such file": ("audit gone.pt --base base.pt", "gone.pt does not exist"),
    "no such file, before data are read": ("audit gone.pt photos", "gone.pt does not exist"),
    "a text and data": ("audit letter.txt photos", "letter.txt is no file of weights"),
    "no such folder": ("audit runs/gone --base base.pt", "runs/gone does not exist"),
    "no such start": ("audit base.pt --base efficientnet-b9", "is not known"),
    "no weights": ("audit base.pt --base empty.pt", "holds no weights"),
    "a text": ("audit letter.txt --base base.pt", "weights are read from"),
    "no run folder": ("audit base.pt --base photos", "is not a finished run folder"),
    "no model": ("audit", "audit needs MODEL"),
}


@pytest.mark.parametrize(("words", "says"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_one_line(words, says, base, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save({}, "empty.pt")
    (tmp_path / "letter.txt").write_text("dear")
    (tmp_path / "photos").mkdir()
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert (out, len(err.splitlines())) == ("", 1)
