"""A small set of pictures with the features of a tiny network, for whole modules."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import jobs

sys.path.insert(0, str(Path(__file__).parents[1] / "contracts"))  # lets tests import `networks`


@pytest.fixture(scope="module")
def training_data(tmp_path_factory):
    with jobs.picture_folder(tmp_path_factory, "training") as data:
        yield jobs.training_data(data)


@pytest.fixture(scope="module")
def four_blocks(tmp_path_factory):
    """The same for a network whose blocks can join in four stages."""
    with jobs.picture_folder(tmp_path_factory, "four") as data:
        yield jobs.training_data(data, jobs.four)
