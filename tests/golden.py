"""Numbers and sentences of fixed data, kept beside the tests that compare with them.

They are no proof of being right (other tests are); they notice when anything changes. Where a
change is meant, `python -m pytest FOLDER/test_pinned.py --pin` writes them anew: read the
difference before it is kept.
"""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

NEAR = {"rel": 2e-4, "abs": 1e-7}  # what another BLAS may move


def plain(value: Any) -> Any:
    """As JSON holds it; numbers to nine digits."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (float, np.floating)):
        return float(f"{float(value):.9g}")
    return int(value) if isinstance(value, np.integer) else value


def compare(found: Any, kept: Any, where: str = "") -> None:
    """Raises AssertionError at the first place that differs."""
    assert type(found) is type(kept) or {type(found), type(kept)} <= {int, float}, where
    if isinstance(found, dict):
        assert found.keys() == kept.keys(), where
        for key in found:
            compare(found[key], kept[key], f"{where}.{key}")
    elif isinstance(found, list):
        assert len(found) == len(kept), where
        for number, (one, other) in enumerate(zip(found, kept, strict=True)):
            compare(one, other, f"{where}[{number}]")
    elif isinstance(found, float) or isinstance(kept, float):
        assert found == pytest.approx(kept, nan_ok=True, **NEAR), where
    else:
        assert found == kept, where


def check(file: str, name: str, value: Any, pins: bool) -> None:
    """Compare with what the JSON file beside a test holds, or write it there."""
    path = Path(file).with_suffix(".json")
    kept = json.loads(path.read_text()) if path.exists() else {}
    found = json.loads(json.dumps(plain(value)))
    if pins:
        text = json.dumps(kept | {name: found}, indent=0, sort_keys=True, ensure_ascii=False)
        path.write_text(text + "\n")
        return
    compare(found, kept[name], name)
