"""What tables and tensors ask of a start: columns by name, a network that has learnt nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from warmstart.data.collection import Collection
from warmstart.data.tensors import tensor_inputs
from warmstart.errors import StartError
from warmstart.joints import lineage
from warmstart.network.columns import change_columns
from warmstart.network.load import Start, load
from warmstart.network.tabular import describe, draw
from warmstart.records import TableInputs

SCRATCH = "scratch"  # the start for tables where none is named: a network that knows nothing


def table_start(start: Any, collection: Collection, seed: int) -> Start:
    """The network for these columns: drawn anew, or a run's, its columns kept by name.

    Raises: StartError for a start that takes something else, RunFolderError for a run that is
    none.
    """
    record = collection.record
    inputs = TableInputs(columns=record.columns)
    if start == SCRATCH:
        n_outputs = max(len(record.classes), 1)  # of an output that is never used
        module = draw(inputs, n_outputs, seed)
        return Start(module=module, record=describe(module, inputs, n_outputs))
    if not lineage.is_run(start):
        shown = start if isinstance(start, str) else type(start).__name__
        raise StartError(
            f"{shown} takes no rows of a table; name a run that learnt from one (--start "
            "runs/NAME), or leave --start away: then a network is trained from nothing."
        )
    return change_columns(lineage.start_from_run(Path(start)), inputs)


def tensor_start(start: Any, collection: Collection) -> Start:
    """The user's own network, which is given the tensors as they are. Raises: StartError."""
    if not isinstance(start, nn.Module):
        raise StartError(
            f"{collection.wording.source} holds tensors, which a network of your own takes: give "
            "it with start=network."
        )
    inputs: Any = tensor_inputs(collection)  # for a module `load` only notes it down
    return load(start, preprocessing=inputs)
