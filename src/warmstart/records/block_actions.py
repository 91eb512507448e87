"""What a plan can do with a block: one object per action, whose answers everything else reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

Action = str  # the name of one of ACTIONS
Mode = Literal["eval", "statistics", "free"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockAction:
    """One action. `moves`: whether training moves a tensor, by its name before low-rank updates,
    and whether it belongs to one. `mode` of its modules: always eval; the caller's, but statistics
    of norms stay; or the caller's.
    """

    name: str
    words: str  # in a sentence
    row: str  # in the report
    short: str  # in the table of --dry-run
    plain: str  # in the studio
    moves: Callable[[str, bool], bool] = lambda tensor, is_update: True
    mode: Mode = "free"
    color: Literal["frozen", "tuned", "new"] = "new"
    place: Literal["block", "above", "head"] = "block"  # of the base model, above it, its head
    is_trained: bool = True
    is_random: bool = False  # its values are drawn anew
    has_updates: bool = False  # low-rank ones, in the end merged into its weights
    extra: str = ""  # of a strategy that gives it
    because: str = ""  # the strategy gives it, behind "among the last 4 layers"
    lr_factor: float = 1.0  # over the learning rate of a fine-tuned block
    lr_because: str = ""

    @property
    def trains_network(self) -> bool:
        """Whether it needs step by step training; the head alone has a closed form."""
        return self.is_trained and self.place != "head"

    @property
    def trains_weights(self) -> bool:
        """Whether training moves the weights themselves."""
        return self.moves("weight", False)

    @property
    def is_tuned(self) -> bool:
        """Whether training goes on from the base model's weights."""
        return self.is_trained and self.place == "block" and not self.is_random

    @property
    def is_new(self) -> bool:
        """Whether a block begins without the base model's weights."""
        return self.is_random or self.place == "above"


FROZEN = BlockAction(
    name="frozen",
    moves=lambda tensor, is_update: False,
    mode="eval",
    words="frozen",
    row="frozen",
    short="frozen",
    plain="frozen",
    color="frozen",
    is_trained=False,
)
TUNED = BlockAction(
    name="tuned",
    mode="statistics",
    words="fine-tuned",
    row="fine-tuned",
    short="fine-tuned",
    plain="fine-tuned",
    color="tuned",
    because=", fine-tuned from the base model's weights",
)
LOW_RANK = BlockAction(
    name="low-rank",
    moves=lambda tensor, is_update: is_update,
    mode="eval",
    words="low-rank updates",
    row="low-rank updates",
    short="low-rank",
    plain="fine-tuned (LoRA)",
    color="tuned",
    has_updates=True,
    extra="lora",
    because="; a low-rank update is trained, its own weights stay",
    # About ten times the learning rate of full fine-tuning: Biderman et al. 2024, "LoRA Learns
    # Less and Forgets Less"; Schulman et al. 2025, "LoRA Without Regret".
    lr_factor=10.0,
    lr_because="low-rank updates need up to ten times the learning rate",
)
FRESH = BlockAction(
    name="fresh",
    words="randomly initialised",
    row="new",
    short="new",
    plain="trained from scratch",
    is_random=True,
)
ADDED = BlockAction(
    name="added", words="added", row="added", short="added", plain="added", place="above"
)
REPLACED = BlockAction(
    name="replaced", words="replaced", row="new", short="replaced", plain="replaced", place="head"
)
ACTIONS: dict[str, BlockAction] = {
    one.name: one for one in (FROZEN, TUNED, LOW_RANK, FRESH, ADDED, REPLACED)
}


def for_blocks() -> tuple[str, ...]:
    """Names of the actions that a block of the base model can have."""
    return tuple(name for name, one in ACTIONS.items() if one.place == "block")


def train_network(actions: Iterable[str]) -> bool:
    """Whether some block is trained step by step; else the head is fitted in closed form.

    >>> train_network(["frozen", "replaced"]), train_network(["tuned", "replaced"])
    (False, True)
    """
    return any(ACTIONS[action].trains_network for action in actions)
