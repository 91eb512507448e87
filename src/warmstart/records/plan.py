"""Every choice of a run and its reason (plan.toml)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from warmstart.errors import PlanError
from warmstart.formatting import joined
from warmstart.records.block_actions import ACTIONS, Action, BlockAction, for_blocks
from warmstart.records.inputs import Kind
from warmstart.records.run_folder import ABSENT

Plain = float | int | str | bool
Value = Plain | tuple[Plain, ...]
OPTIONS = frozenset({"base", "arch", "strategy", "budget", "seed", "lr"})  # that a plan sets too


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One value of a plan, its reason and its source.

    >>> Choice(value=4, because="four fit the minutes", source="rule").value
    4
    """

    value: Value
    because: str
    source: Literal["rule", "measured", "user"]
    rule: Value | None = None  # the rule's value

    def __post_init__(self) -> None:
        if not self.because:
            raise PlanError(f"the plan has {self.value} without a reason; fill in `because`.")
        if self.value == "auto":
            raise PlanError('the plan has "auto"; write the value itself.')

    @property
    def number(self) -> float:
        """The value where it is a number. Raises: PlanError if it is none.

        >>> Choice(value=8, because="so", source="rule").number
        8.0
        """
        if isinstance(self.value, (int, float)):
            return float(self.value)
        raise PlanError(f"the plan has {self.value!r} where a number belongs; write a number.")


def by_rule(value: Value, because: str, rule: Value | None = None) -> Choice:
    """A choice of the rules; `rule` is what another one would have chosen.

    >>> by_rule(4, "four fit the minutes").source
    'rule'
    """
    return Choice(value=value, because=because, source="rule", rule=rule)


def wrong_value(name: str, kind: str, value: object) -> PlanError:
    """The error for a value of a plan; `kind` says what is allowed.

    >>> wrong_value("base", "text", 3)
    PlanError('base must be text, not 3.')
    """
    return PlanError(f"{name} must be {kind}, not {format_value(value)}.")


def format_value(value: object) -> str:
    """A value in a message, in 40 characters at most."""
    if isinstance(value, (dict, list)):
        return "a table" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a number of more than 64 bits"
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 40 else f"{text[:37]}..."


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockPlan:
    """The action of one block, and its learning rate (None where it is not trained)."""

    name: str
    action: Choice
    lr: Choice | None = None

    @property
    def behaviour(self) -> BlockAction:
        """What its action means. Raises: PlanError if there is no such action."""
        action = ACTIONS.get(str(self.action.value))
        if action is None:
            kind = joined(for_blocks(), "or")
            raise wrong_value(f"the plan's block.{self.name}.action", kind, self.action.value)
        return action


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadPlan:
    """How the linear probe is chosen, and its accuracy estimated."""

    candidates: Choice  # simplest first: ties go to the earlier
    penalties: Choice
    outer_folds: Choice
    permutations: Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """How blocks are trained; most choices are None where all are frozen."""

    engine: Choice
    batch_size: Choice  # images of a step
    seed: Choice
    optimizer: Choice | None = None  # "adamw" or "sgd" (momentum 0.9)
    lr: Choice | None = None  # peak learning rate of the uppermost fine-tuned block
    layer_decay: Choice | None = None  # a block's learning rate over that of the block above it
    weight_decay: Choice | None = None
    epochs: Choice | None = None
    warmup: Choice | None = None  # share of the steps
    crop: Choice | None = None  # least share of an image in a random crop; 1: no crops
    flip: Choice | None = None  # random mirroring
    folds: Choice | None = None  # cross-validation folds of fine-tuning
    model_soup: Choice | None = None  # trainings on all images whose weights are averaged
    lora_rank: Choice | None = None  # of low-rank updates
    color_jitter: Choice | None = (
        None  # largest relative change of brightness, contrast, saturation
    )
    time_shift: Choice | None = None  # largest share of a clip's length; sounds only
    spec_augment: Choice | None = None  # largest masked share of pitches, and of time; sounds only
    augmentations: Choice | None = None  # of each image; 0: new ones every epoch
    split_at: Choice | None = None  # blocks whose outputs are cached; 0: none, live training
    cache_dtype: Choice | None = None  # of the cache: "float32" or "float16"
    ema_decay: Choice | None = None  # decay of the moving average of the weights; 0: none
    l2_sp: Choice | None = None  # strength of L2-SP; 0: none
    contrastive: Choice | None = None  # whether blocks learn from pairs; texts only
    contrastive_temperature: Choice | None = None  # 0: cosines of pairs are pulled to 1 and 0
    micro_batch: Choice | None = None  # images of a forward pass; their gradients add up
    parallel: Choice | None = None  # "data", "fsdp" or "pipeline:N": what processes share
    gradient_checkpointing: Choice | None = None
    device: Choice | None = None  # "cpu", "cuda" or "mps"
    precision: Choice | None = None  # "float32", "bfloat16" or "float16"
    workers: Choice | None = None  # threads that prepare images
    compile: Choice | None = None  # whether torch.compile is used
    offload: Choice | None = None  # dtype of outputs between blocks; weights stay on disk

    @property
    def is_paired(self) -> bool:
        """Whether blocks learn from pairs, and the head is fitted after them."""
        return bool(self.contrastive and self.contrastive.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputPlan:
    """The input of the network."""

    size: Choice  # px of the square
    channels: Choice  # 1 grey, 3 colour, 4 colour and alpha, more: bands
    rgb: Choice | None = None  # positions of red, green and blue among more than three bands
    # Of clips only, see `Sound`:
    sample_rate: Choice | None = None
    seconds: Choice | None = None
    n_mels: Choice | None = None
    top_db: Choice | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnPlan:
    """The type of a table's column: "number", "category" or "left-out"."""

    name: str
    kind: Choice

    @property
    def is_chosen(self) -> bool:
        """Whether the user chose it, by an option or in plan.toml."""
        return self.kind.source == "user" or self.kind.value != self.kind.rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """plan.toml: every choice, no "auto" left.

    `blocks` go from the input to the output: 1..P, added layers, then "output", the head.
    """

    base: Choice
    strategy: Choice
    blocks: tuple[BlockPlan, ...]
    head: HeadPlan
    training: TrainingPlan
    arch: Choice | None = None  # of a base model that is a file of weights
    partial: Choice | None = None  # true: only weights that fit were loaded
    input: InputPlan | None = None  # None: the base model's
    columns: tuple[ColumnPlan, ...] | None = field(default=None, metadata=ABSENT)  # of a table
    examples: int = 0  # of the training set; 0: unknown
    format: int = 1

    def action_of(self, name: str) -> Action:
        """The action of a block. Raises: PlanError if there is no such block."""
        for block in self.blocks:
            if block.name == name:
                return block.behaviour.name
        raise PlanError(f"the plan has no block {name!r}; it was made for another network.")

    @property
    def actions(self) -> list[Action]:
        """The action of each block, the head's included."""
        return [block.behaviour.name for block in self.blocks]

    @property
    def samples_seen(self) -> int:
        """Examples times epochs. Raises: PlanError without training, or if epochs is no number."""
        if self.training.epochs is None:
            raise PlanError(
                "the plan trains blocks without training.epochs; make a new plan with --dry-run."
            )
        return round(self.training.epochs.number * self.examples)

    @property
    def is_trained(self) -> bool:
        """Whether some block is trained step by step; else only the head, in closed form."""
        return any(block.lr is not None for block in self.blocks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Forecast costs of a plan on this machine."""

    seconds: dict[str, float]  # by stage, and `total`
    memory_mb: float  # largest resident memory, in 10^6 bytes
    disk_mb: float  # the run folder, and new features in the cache

    @property
    def total(self) -> float:
        """Seconds from the command to the finished run folder."""
        return self.seconds["total"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """`fit --dry-run`: the plan and its forecast; nothing was trained."""

    data: str  # its name
    title: str  # of the base model
    n: int  # training images
    n_test: int
    classes: tuple[str, ...]
    plan: Plan
    forecast: Forecast
    parameters: dict[str, int]  # of each block, by name
    surgery: str = ""  # what does not carry over from the base model, in words
    follows_verdict: bool = False  # whether the verdict may still change the plan
    plan_file: str | None = None
    kind: Kind = field(default="image", metadata=ABSENT)
