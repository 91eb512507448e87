"""The names of outputs, from whatever people write them in."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from warmstart.errors import ModelError
from warmstart.network.external_classifier import imagenet_names, parse_names, read_names, unique

WORDS = st.lists(st.text("abcdefg ü", min_size=1).map(str.strip).filter(bool), min_size=2)


@given(WORDS.map(lambda names: list(dict.fromkeys(names))).filter(lambda names: len(names) > 1))
def test_all_ways_to_write_them_give_the_same(names):
    expected = tuple(names)
    assert parse_names(json.dumps(names)) == expected
    assert parse_names(json.dumps({str(i): name for i, name in enumerate(names)})) == expected
    assert parse_names(repr(dict(enumerate(names)))) == expected
    assert parse_names("\n".join(names) + "\n\n") == expected
    assert parse_names(json.dumps({name: i for i, name in enumerate(names)})) == expected


def test_a_file_with_a_mark_of_its_encoding(tmp_path):
    (tmp_path / "names.txt").write_text("cat\nHündchen\n", "utf-8-sig")
    assert read_names(tmp_path / "names.txt") == ("cat", "Hündchen")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "does not exist"),
        (b"\xff\xfe\xff", "is no text"),
        (b"\n", "names no classes"),
        (b"cat\ndog\ncat\n", "has 'cat' twice"),
        (b'{"cat": 3}', "names no classes"),
    ],
)
def test_unusable_names_are_refused(tmp_path, content, says):
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=says):
        read_names(path)


def test_a_folder_is_no_file_of_names(tmp_path):
    with pytest.raises(ModelError, match="cannot be read"):
        read_names(tmp_path)


def test_each_class_of_imagenet_has_a_name_of_its_own():
    assert len(unique(imagenet_names([]), "ImageNet")) == 1000
    assert imagenet_names(["n02012849", "cat"])[134] == "n02012849"
