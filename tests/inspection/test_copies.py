from warmstart.inspection.copies import copies
from warmstart.inspection.twins import Twin
from warmstart.records import Example


def example(id, label, split):
    return Example(id=id, label=label, split=split, sha256=id)


EXAMPLES = [
    example("a", "cat", "train"),
    example("b", "cat", "train"),
    example("c", "dog", "train"),
    example("d", "cat", "test"),
    example("e", "cat", "holdout"),
]


def pair(first, second):
    return Twin(first, second, 0.95, False)


def test_each_kind_of_pair_has_its_finding():
    found = copies([pair(0, 1), pair(0, 2), pair(0, 3), pair(1, 3)], EXAMPLES)
    assert [f.kind for f in found] == ["leak", "conflict", "duplicate"]
    assert found[0].items == ("d ~ a", "d ~ b")
    assert found[0].sentence.startswith("1 test image is a near copy of a training image")
    assert "--fix" in found[0].sentence
    assert found[1].items == ("a ~ c",)
    assert found[2].sentence.startswith("1 pair of near copies")


def test_a_leak_does_not_look_at_the_labels_of_the_test():
    other = [*EXAMPLES[:3], example("d", "dog", "test"), EXAMPLES[4]]
    assert copies([pair(0, 3)], EXAMPLES) == copies([pair(0, 3)], other)


def test_a_copy_in_the_hold_out_is_no_leak_into_the_test():
    (found,) = copies([pair(0, 4)], EXAMPLES)
    assert found.kind == "duplicate"


def test_no_twins_no_findings():
    assert copies([], EXAMPLES) == ()
