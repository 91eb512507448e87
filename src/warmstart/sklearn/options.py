"""What the scikit-learn estimators have in common: their options, and how these suit an X."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import Tags

from warmstart.errors import DataError, UsageError
from warmstart.sklearn.given import as_images, is_output_alone, seed_from

if TYPE_CHECKING:
    from warmstart.planning.rules import Budget
    from warmstart.records.data import Task
    from warmstart.records.inputs import Preprocessing
    from warmstart.request import Request


USUAL, USUAL_BASE = "default", "lite0"
OF_TABLES = ("n_features_in_", "feature_names_in_", "coef_", "intercept_", "penalty_")


class Options(BaseEstimator):  # type: ignore[misc]
    """The options of an estimator that learns from images, or from a table."""

    def __init__(
        self,
        base: Any = USUAL,
        strategy: str = "auto",
        *,
        budget: Literal["fast", "balanced", "thorough"] = "fast",
        arch: str | None = None,
        preprocessing: Preprocessing | None = None,
        lr: float | None = None,
        minutes: float | None = None,
        device: str = "auto",
        settings: Mapping[str, Any] | Sequence[str] | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.base = base
        self.strategy = strategy
        self.budget = budget
        self.arch = arch
        self.preprocessing = preprocessing
        self.lr = lr
        self.minutes = minutes
        self.device = device
        self.settings = settings
        self.random_state = random_state

    @property
    def _is_usual(self) -> bool:
        return isinstance(self.base, str) and self.base == USUAL

    def _forget(self, names: Sequence[str]) -> None:
        """Drop what an earlier fit on another form of X has left."""
        for name in names:
            self.__dict__.pop(name, None)

    def _check_table(self, X: Any) -> None:
        """Refuse options that need a network. Raises: UsageError."""
        if not is_output_alone(self.strategy):
            raise UsageError(
                f"strategy {self.strategy} trains layers of a network, and a table has none; use "
                "head or auto."
            )
        if self.base is not None and not self._is_usual:
            named = repr(self.base) if isinstance(self.base, str) else type(self.base).__name__
            raise UsageError(
                f"X is a table of shape {X.shape} and start={named} is a network for images; use "
                "start=None for a table."
            )

    def _check_images(self) -> None:
        """Refuse images where there is to be no network. Raises: UsageError."""
        if self.base is None:
            raise UsageError(
                "start=None learns from a table, and X holds images; leave start away, or name one."
            )

    def _asked(self, data: Any, budget: Budget, task: Task) -> Request:
        """The run that these options ask for."""
        from warmstart.request import Request, typed_settings

        return Request(
            data=data,
            base=USUAL_BASE if self._is_usual else self.base,
            arch=self.arch,
            preprocessing=self.preprocessing,
            strategy=self.strategy,
            budget=budget,
            seed=seed_from(self.random_state),
            lr=self.lr,
            minutes=self.minutes,
            device=self.device,
            settings=typed_settings(self.settings),
            task=task,
        )

    def __sklearn_tags__(self) -> Tags:
        tags: Tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags


def images_again(X: Any) -> Any:
    """X as images, where those were learnt from. Raises: DataError where it holds none."""
    images = as_images(X)
    if images is None:
        raise DataError(
            "X is no array of images and no list of paths, as it was in fit; give images"
        )
    return images
