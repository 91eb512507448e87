"""The comparison of `audit`: at most 14 lines of 80 columns, whatever the network."""

from types import SimpleNamespace

from warmstart.cli.audit import LINES, _accuracy, audit_text
from warmstart.records.network import Audit, AuditGroup, Tally
from warmstart.records.summary import Scores
from warmstart.terminal.text import WIDTH

NONE = Tally(tensors=0, numbers=0)


def group(name, state="frozen", **changes):
    counts = {"weights": 6, "weights_same": 6, "statistics": 4, "statistics_same": 4}
    counts |= {"reshaped": 0, "only_model": 0, "only_base": 0, "change": 0.0}
    return AuditGroup(name=name, state=state, **(counts | changes))


def an_audit(*groups, **changes):
    fields = dict.fromkeys(("moved", "reshaped", "only_model", "only_base"), NONE)
    fields |= {"same": Tally(tensors=250, numbers=2_100_000), "rounded": (), "carried": 1.0}
    return Audit(model="tuned.pt", base="lite0", groups=groups, rows=(), **(fields | changes))


def fits(text):
    lines = text.splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= WIDTH
    return text


def test_each_group_has_its_line_in_order():
    text = fits(audit_text(an_audit(group("stem"), group("layer1"), group("fc", change=None))))
    assert text.splitlines()[-3:] == [
        "stem    frozen: 10 of 10 tensors the same",
        "layer1  frozen: 10 of 10 tensors the same",
        "fc      frozen: 10 of 10 tensors the same",
    ]
    assert "250 tensors (2,100,000 numbers) of 250 in both: the same bytes" in text
    assert "Changed   none" in text


def test_frozen_in_name_only_is_explained():
    text = fits(audit_text(an_audit(group("bn1", "frozen in name only", statistics_same=0))))
    assert "frozen in name only: 6 weights same, 4 statistics not" in text
    assert "Beware    a layer with changed statistics has other outputs" in text
    assert "Beware" not in audit_text(an_audit(group("bn1")))


def test_changed_layers_say_by_how_much():
    changed = group("layer4", "moved", weights_same=2, change=0.0312, only_model=2, reshaped=1)
    text = fits(audit_text(an_audit(changed, moved=Tally(tensors=4, numbers=1000))))
    assert "changed: 4 of 10 tensors, by 3.1 %; 1 of another shape; 2 new" in text
    assert "4 tensors (1,000 numbers)" in text


def test_neighbours_in_one_state_share_a_line():
    groups = [group(f"blocks.{i}") for i in range(9)]
    groups += [group(f"blocks.{i}", "moved", weights_same=0, change=i / 100) for i in (9, 10, 11)]
    groups += [group("head", "only in MODEL", only_model=4), group("fc", "only in BASE")]
    lines = fits(audit_text(an_audit(*groups))).splitlines()[-4:]
    assert lines[0] == "blocks.0 to blocks.8   frozen: 90 of 90 tensors the same"
    assert lines[1].endswith("changed: 18 of 30 tensors, by 9 to 11 %")
    assert lines[2].endswith("new: 4 tensors")
    groups = [group(f"a.long.name.of.a.layer.{i}", ("frozen", "moved")[i % 2]) for i in range(60)]
    text = fits(audit_text(an_audit(*groups, rounded=("float32 to float16",))))
    assert text.splitlines()[-1] == "and 54 more lines; --json has them all"
    assert "float32 to float16" in text


def test_other_tensors_are_counted_on_one_line():
    sides = {"reshaped": Tally(tensors=2, numbers=9), "only_model": Tally(tensors=4, numbers=9)}
    text = fits(audit_text(an_audit(group("fc", "another shape", reshaped=2), **sides)))
    assert "Other     2 of another shape, 4 only in the model" in text
    assert "fc  another shape: 2 tensors" in text


def test_unrelated_networks_are_called_so():
    sides = {"same": NONE, "only_model": Tally(tensors=3, numbers=9), "carried": 0.0}
    text = fits(audit_text(an_audit(group("a", "only in MODEL"), **sides)))
    assert "not the same architecture" in text
    assert "3 tensors in the model, 0 in the base model" in " ".join(text.split())
    moved = group("conv1", "moved", weights_same=0)
    assert "hardly the same network" in fits(audit_text(an_audit(moved, carried=0.3)))
    assert "hardly" not in audit_text(an_audit(moved))


def test_the_gap_to_the_training_images_has_no_negative_zero():
    score = {"accuracy": 0.8, "low": 0.75, "high": 0.85, "n": 300}
    test = Scores(**score, balanced_accuracy=0.8, macro_f1=0.8, log_loss=0.5, ece=0.1)
    train = SimpleNamespace(**score, of=300, gap=0.05, gap_low=-0.003, gap_high=0.1)
    majority = SimpleNamespace(label="cat", accuracy=0.5)
    rest = {"without_leaks": None, "majority": majority, "n_classes": 2}
    model = SimpleNamespace(test=test, train=train, **rest)
    assert "5 points more (0 to 10)." in list(_accuracy(model))[-1]
