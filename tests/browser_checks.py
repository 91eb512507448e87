"""What a browser's page is checked with."""

from __future__ import annotations

from typing import Any

import pytest

CHROMIUM = "/usr/bin/chromium"


def axe_violations(page: Any) -> list[tuple[str, list[str]]]:
    """Rules of axe-core that a page breaks, each with the first elements that do."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page).response["violations"]
    return [(one["id"], [node["html"][:120] for node in one["nodes"]][:3]) for one in found]
