"""Encoders that know their own parts: what they are cut into is designed, and needs no trace."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from warmstart.errors import StartError
from warmstart.network.segment import Steps
from warmstart.records import Inputs, Layout
from warmstart.words import nouns_of


def refused(taken: str, inputs: Inputs) -> StartError:
    """What is raised for inputs of another kind than those that are `taken`."""
    given = nouns_of(inputs.kind).many
    return StartError(f"the network takes {taken}, and its inputs are {given}.")


class Encoder(nn.Module):
    """Rows (B, n, …) to vectors (B, C); between its parts goes one tensor of one layout."""

    layout: ClassVar[Layout]

    @abstractmethod
    def window_of(self, inputs: Inputs) -> int:
        """How much of a row passes at a time. Raises: StartError for inputs of another kind."""

    @abstractmethod
    def steps(self, window: int) -> Steps:
        """Its parts in order, for rows of which so much passes at a time.

        Raises: StartError where that is too little for any output.
        """

    def forward(self, inputs: Tensor) -> Tensor:
        """Rows (B, n, …), each passing as a whole, to (B, C)."""
        steps = self.steps(inputs.shape[1])
        for step in (*steps.parts, steps.neck):
            inputs = step.run(self, inputs)
        return inputs
