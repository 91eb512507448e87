"""Groups are connected components, proposed from names; folds keep them whole and are equal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold

from image_files import paint
from warmstart.data.dataset import Row
from warmstart.data.parsing import parse
from warmstart.data.read import read
from warmstart.data.splits import folds, group_numbers, propose_columns, propose_series
from warmstart.errors import DataError, UsageError
from warmstart.events import drain
from warmstart.records.data import Example

ONE = Example(id="a", label="x", split="train", sha256="s")
seeds = st.integers(0, 2**32 - 1)


# ---- groups -----------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 8), st.none() | st.integers(0, 5)), max_size=25))
def test_groups_are_the_transitive_closure_of_same_bytes_or_same_group(pairs):
    """Group "5" and bytes "5" are not linked; groups are numbered by first appearance."""
    n = len(pairs)
    linked = np.eye(n, dtype=bool)
    for i, (sha, group) in enumerate(pairs):
        for j, (other_sha, other_group) in enumerate(pairs):
            linked[i, j] |= sha == other_sha or (group is not None and group == other_group)
    for _ in range(n):  # the slow definition: links of links, until nothing changes
        linked = linked @ linked
    examples = [
        replace(ONE, id=str(i), sha256=str(sha), group=None if group is None else str(group))
        for i, (sha, group) in enumerate(pairs)
    ]
    result = group_numbers(examples)
    assert result.dtype == np.int64
    np.testing.assert_array_equal(result[:, None] == result[None, :], linked)
    firsts = list(dict.fromkeys(result.tolist()))
    assert firsts == list(range(len(firsts)))


# ---- folds ------------------------------------------------------------------------------------

labelled_groups = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 12)), min_size=2, max_size=80
).filter(lambda pairs: len({group for _, group in pairs}) > 1)


@given(labelled_groups, st.integers(2, 10), seeds, st.booleans())
def test_folds_keep_groups_whole_and_none_empty(pairs, n_folds, seed, has_sets):
    """Whatever classes and groups are called; of the same generator the same folds."""
    labels, group = map(np.array, zip(*pairs, strict=True))
    targets = labels[:, None] == np.arange(3) if has_sets else labels
    result = folds(targets, group, n_folds, np.random.default_rng(seed))
    assert result.dtype == np.int64
    assert all(len(set(result[group == g])) == 1 for g in set(group.tolist()))
    assert set(result) == set(range(min(n_folds, len(set(group.tolist())))))
    names = targets if has_sets else np.array(["c0", "c1", "c2", "c3", "c4"])[labels]
    other = folds(names, group * 7 + 3, n_folds, np.random.default_rng(seed))
    np.testing.assert_array_equal(result, other)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=120), st.integers(2, 10), seeds)
def test_without_groups_class_counts_and_sizes_differ_by_at_most_one(labels, n_folds, seed):
    labels = np.array(labels)
    result = folds(labels, np.arange(len(labels)), n_folds, np.random.default_rng(seed))
    n_folds = result.max() + 1
    assert np.ptp(np.bincount(result, minlength=n_folds)) <= 1
    for label in set(labels.tolist()):
        assert np.ptp(np.bincount(result[labels == label], minlength=n_folds)) <= 1


def imbalance(labels: np.ndarray, assigned: np.ndarray) -> float:
    """Mean over classes of the spread of their shares between 5 folds."""
    table = np.array([np.bincount(assigned[labels == k], minlength=5) for k in range(3)])
    return float((table / table.sum(1, keepdims=True)).std(axis=1).mean())


def test_groups_are_balanced_about_as_well_as_scikit_learn_does():
    ours, theirs = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        group = np.sort(rng.integers(0, 40, 300))
        labels = (rng.integers(0, 3, 40)[group] + (rng.random(300) < 0.2)) % 3
        ours.append(imbalance(labels, folds(labels, group, 5, rng)))
        assigned = np.empty(300, dtype=int)
        splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        for fold, (_, rows) in enumerate(splitter.split(labels, labels, group)):
            assigned[rows] = fold
        theirs.append(imbalance(labels, assigned))
    assert np.mean(ours) < 1.3 * np.mean(theirs)


def test_every_one_of_several_labels_is_spread_over_the_folds():
    rng = np.random.default_rng(0)
    sets = (rng.random((200, 6)) < [0.5, 0.3, 0.2, 0.1, 0.05, 0.05]).astype(float)
    fold = folds(sets, np.arange(200), 5, rng)
    per_fold = np.array([sets[fold == f].sum(axis=0) for f in range(5)])
    assert np.ptp(np.bincount(fold)) <= 6
    assert (np.ptp(per_fold, axis=0) <= 3).all()


def test_folds_follow_the_generator():
    labels = np.arange(60) % 3
    one, other = (folds(labels, np.arange(60), 5, np.random.default_rng(s)) for s in (1, 2))
    assert (one != other).any()


def test_what_cannot_be_split():
    for labels, groups in (([0, 1, 0], [5, 5, 5]), ([], [])):
        with pytest.raises(DataError, match="all training examples belong together"):
            folds(labels, groups, 3, np.random.default_rng(0))
    with pytest.raises(UsageError, match="1 folds cannot be compared"):
        folds([0, 1], [0, 1], 1, np.random.default_rng(0))


# ---- groups proposed from names: rarely, and never acted on --------------------------------------

GROUPS = ["patient", "Patient_ID", "patientId", "SUBJECT", "lesion_id", "case-id", "Video ID"]
OTHERS = ["age", "patients_age", "id", "lesion", "camera_model", "file"]


@pytest.mark.parametrize(
    ("name", "values", "is_proposed"),
    [(name, "aabbc", True) for name in GROUPS]
    + [(name, "aabbc", False) for name in OTHERS]
    + [("patient", v, False) for v in ("abcde", "aaaaa", ["a", "", "b", "", "c"], [""] * 5)],
)
def test_columns_called_like_a_group(name, values, is_proposed):
    lines = [f"{i}.png,x,{value}" for i, value in enumerate(values)]
    table = parse("\n".join([f"path,label,{name}", *lines]).encode(), "labels.csv")
    result = propose_columns(table, ("path", "label"), "labels.csv")
    assert [item for finding in result for item in finding.items] == [name] * is_proposed
    assert propose_columns(table, ("path", name), "labels.csv") == ()  # the label is no group


def test_a_table_with_a_patient_column(tmp_path):
    names = [f"{label}/{i}.png" for label in "ab" for i in range(3)]
    lines = [f"{name},{name[0]},{i // 2}" for i, name in enumerate(names)]
    table = paint(tmp_path) / "labels.csv"
    table.write_text("\n".join(["path,label,Patient ID", *lines]))
    record = drain(read(table)).record
    (finding,) = record.problems
    assert (finding.kind, finding.items) == ("group-proposed", ("Patient ID",))
    assert "(3 values) looks like a group" in finding.sentence
    assert finding.sentence.endswith('add --group "Patient ID"')
    assert {example.group for example in record.examples} == {None}  # proposed, not done
    assert drain(read(table, group="Patient ID")).record.problems == ()
    assert len(drain(read(table, test=table)).record.problems) == 1


def series(pattern: str, n_keys: int = 6, n_files: int = 3, labels: str = "xy") -> list[Row]:
    rows = []
    for key in range(n_keys):
        label = labels[key % len(labels)]
        names = [pattern.format(key=key, n=n) for n in range(n_files)]
        rows += [Row(id=f"{label}/{name}", label=label) for name in names]
    return rows


PATTERNS = ["person{key:02}_{n:02}.jpg", "IMG_00{key} ({n}).jpg", "p{key}-{n}.png", "{key}.{n}.png"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_series_of_file_names(pattern):
    (finding,) = propose_series(series(pattern), "photos/")
    assert (finding.kind, finding.items) == ("group-proposed", ())  # there is no column to name
    assert "File names in photos/ look like 6 series" in finding.sentence
    assert 'is one of 3 with "' in finding.sentence
    assert "--group COLUMN" in finding.sentence


@pytest.mark.parametrize(
    "rows",
    [
        series("{key}{n}.jpg"),  # plain numbers
        series("cat_{key}{n}.jpg"),  # a key without a digit
        series("person{key}_{n}.jpg", n_files=1),  # every key once
        series("person{key}_{n}.jpg", n_keys=2, labels="x"),  # too few keys
        series("person{key}_{n}.jpg", n_keys=3, labels="xyz"),  # one key a class
        [Row(id=f"{k}/{k}_{n}.jpg", label=str(k)) for k in range(9) for n in range(3)],  # classes
        series("person{key}_{n}.jpg", n_keys=3)
        + [Row(id=f"x/{i}.jpg", label="x") for i in range(10)],  # less than half
        [Row(id=f"x/a{n * n}.jpg", label="x") for n in range(60)],
        [],
    ],
)
def test_names_that_are_no_series(rows):
    assert propose_series(rows, "photos/") == ()


def test_no_proposal_on_real_photographs(real_images):
    for root in sorted(path for path in real_images.iterdir() if path.is_dir()):
        paths = [path.relative_to(root).as_posix() for path in root.rglob("*.jpg")]
        rows = [Row(id=path, label=path.split("/")[-2]) for path in paths]
        assert propose_series(rows, root.name) == (), root.name
