"""The names of a classifier's outputs, in order, from several file formats."""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from warmstart.errors import ModelError

BESIDE = "labels.json"


def read_names(path: Path) -> tuple[str, ...]:
    """Names from a file: a JSON list, a JSON object of numbers and names, or one name a line.

    Raises: ModelError if there is no such file, or its names are not unique.
    """
    try:
        text = path.read_text("utf-8-sig")
    except OSError as error:
        reason = "does not exist" if not path.exists() else f"cannot be read ({error.strerror})"
        raise ModelError(f"{path} {reason}; name a file with one class name a line.") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is no text; name a file with one class name a line.") from error
    return unique(parse_names(text), str(path))


def names_beside(path: Path) -> tuple[str, ...]:
    """Names from labels.json in the folder of a file of weights; empty without one."""
    beside = path.parent / BESIDE
    return read_names(beside) if beside.is_file() else ()


def unique(names: Sequence[str], where: str) -> tuple[str, ...]:
    """The names, checked. Raises: ModelError if there are none, or one occurs twice."""
    if not names:
        raise ModelError(
            f"{where} names no classes; write one name a line, in the order of the outputs."
        )
    name, n = Counter(names).most_common(1)[0]
    if n > 1:
        raise ModelError(f"{where} has {name!r} twice; the names of two outputs must differ.")
    return tuple(names)


def parse_names(text: str) -> tuple[str, ...]:
    r"""Names in a text: JSON, a Python literal (as Ultralytics writes it), or lines.

    >>> parse_names('["cat", "dog"]'), parse_names("{0: 'cat', 1: 'dog'}")
    (('cat', 'dog'), ('cat', 'dog'))
    >>> parse_names('{"dog": 1, "cat": 0}'), parse_names("cat\ndog\n")
    (('cat', 'dog'), ('cat', 'dog'))
    """
    for read in (json.loads, ast.literal_eval):
        try:
            content = read(text.strip())
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            continue
        if isinstance(content, (list, tuple)) and all(isinstance(name, str) for name in content):
            return tuple(content)
        if isinstance(content, Mapping):
            return from_mapping(content)
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def from_mapping(mapping: Mapping[Any, Any]) -> tuple[str, ...]:
    """Names from {number: name} or {name: number}; empty where the numbers are not 0 to K-1.

    >>> from_mapping({"0": "cat", "1": "dog"}), from_mapping({"cat": 3})
    (('cat', 'dog'), ())
    """
    for pairs in (mapping.items(), ((value, key) for key, value in mapping.items())):
        try:
            numbered = sorted((int(number), str(name)) for number, name in pairs)
        except (ValueError, TypeError):
            continue
        if [number for number, _ in numbered] == list(range(len(numbered))):
            return tuple(name for _, name in numbered)
    return ()


def imagenet_names(classes: Sequence[str]) -> tuple[str, ...]:
    """The 1,000 classes of ImageNet, named as `classes` are: by WordNet's numbers or in words.

    >>> imagenet_names(["n01440764"])[0], imagenet_names(["goldfish"])[:2]
    ('n01440764', ('tench', 'goldfish'))
    """
    from timm.data import imagenet_info

    info: Any = imagenet_info.ImageNetInfo()
    numbers = tuple(info.label_names())
    if set(classes) & set(numbers):
        return numbers
    words = [text.partition(",")[0] for text in info.label_descriptions()]
    # "crane" is a bird and a machine: there the number tells them apart.
    return tuple(
        word if words.count(word) == 1 else f"{word} ({number})"
        for word, number in zip(words, numbers, strict=True)
    )
