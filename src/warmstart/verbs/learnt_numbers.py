"""Numbers learnt from images in memory, for `WarmStartRegressor`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import nn

from warmstart.delivery.bundle import Bundle, read_bundle
from warmstart.events import Steps, drain
from warmstart.folder import read_json
from warmstart.joints.deliver import Finished
from warmstart.joints.request import Request
from warmstart.records import DataRecord, Summary
from warmstart.solve.ridge import Array
from warmstart.verbs.predictor import BATCH, open_bundle


@dataclass(frozen=True, slots=True, eq=False)
class LearntNumbers:
    """What is left of a run once its folder is gone; it can be pickled.

    `bundle` is None where no signal was found: then every answer is `mean`.
    """

    summary: Summary
    mean: float
    bundle: Bundle | None

    def values(self, images: Any, start: Any) -> Array:
        """The number of each image; `start` is the module that the run began from, if any.

        Shapes: returns (n,). Raises: DataError naming an image that cannot be read.
        """
        if self.bundle is None:
            return np.full(len(images), self.mean)
        network = start if isinstance(start, nn.Module) else None
        predictor = open_bundle(self.bundle, "the fitted model", network)
        found = [np.empty(0)]
        pixels = (seen for _, seen in predictor.prepared(images))
        while batch := list(islice(pixels, BATCH)):
            found.append(predictor.logits(np.stack(batch))[0].numpy()[:, 0])
        return np.concatenate(found)


def learn_numbers(asked: Request, fit: Callable[[Request], Steps[Finished]]) -> LearntNumbers:
    """Run the flow in a folder that goes away; keep its model. Raises: as the flow does."""
    with TemporaryDirectory(prefix="warmstart-") as place:
        folder = Path(place) / "run"
        found = drain(fit(replace(asked, out=folder)))
        has_model = found.summary.shipped.strategy != "none"
        bundle = read_bundle(folder) if has_model else None
        record = read_json(folder / "data.json", DataRecord)
    values = [float(example.label) for example in record.examples]
    return LearntNumbers(found.summary, float(np.mean(values)), bundle)
