"""`warmstart predict RUN PATH…`"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from warmstart.records import Answer
from warmstart.verbs.inputs_given import find_files
from warmstart.verbs.predictor import load
from warmstart.verbs.texts import find_texts
from warmstart.words import nouns_of


def predict(run: Path, paths: Sequence[str]) -> Iterator[Answer]:
    """Answer for every image; a folder stands for the images in and below it, sorted.

    A model of texts answers for each text: typed, in a .txt file, in a row of a table.
    A model for tables answers for every row of the tables that are named.

    Raises: RunFolderError if the run has no model, DataError if no image was named.
    """
    predictor = load(run)
    if predictor.kind == "text":
        return predictor.stream(find_texts(paths))
    if predictor.kind == "table":
        return predictor.stream(list(paths))
    return predictor.stream(find_files(paths, nouns_of(predictor.heard)))
