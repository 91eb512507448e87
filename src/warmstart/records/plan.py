"""Every choice of a run and its reason (plan.toml)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, cast

from warmstart.errors import PlanError
from warmstart.records.inputs import Kind
from warmstart.records.run_folder import ABSENT

Action = Literal["frozen", "tuned", "replaced", "added", "low-rank", "fresh"]
Plain = float | int | str | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One value of a plan and where it came from.

    >>> Choice(value=4, because="four views fit the minutes", source="rule").value
    4
    """

    value: Plain | tuple[Plain, ...]
    because: str
    source: Literal["rule", "measured", "user"]
    rule: Plain | tuple[Plain, ...] | None = None  # what the rule would have said

    def __post_init__(self) -> None:
        if not self.because:
            raise PlanError(f"plan: value {self.value} has no reason; fill in `because`")
        if self.value == "auto":
            raise PlanError('plan: "auto" is not a value of a plan; write the value itself')

    @property
    def number(self) -> float:
        """The value where it is a number. Raises: PlanError if it is none.

        >>> Choice(value=8, because="so", source="rule").number
        8.0
        """
        if isinstance(self.value, (int, float)):
            return float(self.value)
        raise PlanError(f"the plan has {self.value!r} where a number belongs; write a number.")


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockPlan:
    """What happens to one part, and at which learning rate (None where nothing moves)."""

    name: str
    action: Choice
    lr: Choice | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadPlan:
    """How the closed-form head is chosen and how its accuracy is estimated."""

    candidates: Choice  # simplest first: ties go to the earlier
    penalties: Choice
    outer_folds: Choice
    permutations: Choice


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """How the data is passed through the network.

    The choices with a default are there only where parts are trained step by step.
    """

    engine: Choice
    batch_size: Choice  # images a step, and a pass of the look
    seed: Choice
    optimizer: Choice | None = None  # "adamw" or "sgd" (momentum 0.9)
    lr: Choice | None = None  # peak learning rate of the uppermost tuned part
    layer_decay: Choice | None = None  # a part's rate over that of the part above it
    weight_decay: Choice | None = None
    epochs: Choice | None = None  # how often each training image is seen
    warmup: Choice | None = None  # share of the steps over which rates rise
    crop: Choice | None = None  # least share of an image that a random crop keeps; 1: no crops
    flip: Choice | None = None  # whether images are mirrored at random
    folds: Choice | None = None  # trainings that hold a part out, for the estimate
    model_soup: Choice | None = (
        None  # trainings on all images; the mean of their weights is shipped
    )
    lora_rank: Choice | None = None  # of low-rank updates
    color_jitter: Choice | None = (
        None  # largest relative change of brightness, contrast, saturation
    )
    time_shift: Choice | None = (
        None  # largest share of its length that a clip is moved by; sounds alone
    )
    spec_augment: Choice | None = (
        None  # largest share of pitches, and of time, blotted out; sounds alone
    )
    augmentations: Choice | None = (
        None  # different views of an image that training sees; 0: ever new ones
    )
    split_at: Choice | None = (
        None  # parts whose outputs are stored and not run again; 0: none, live
    )
    cache_dtype: Choice | None = None  # number format of what is stored: "float32" or "float16"
    ema_decay: Choice | None = None  # decay of the moving average of the weights; 0: none
    l2_sp: Choice | None = None  # pull of a weight towards its start, times its rate; 0: none
    contrastive: Choice | None = None  # whether texts of a class are drawn together; texts alone
    contrastive_temperature: Choice | None = (
        None  # of pairs: each text told from others; 0: cosines to 1 and 0
    )
    micro_batch: Choice | None = None  # images worked through at once; their gradients add up
    parallel: Choice | None = None  # "data", "fsdp" or "pipeline:N": what processes share
    gradient_checkpointing: Choice | None = (
        None  # whether inner results are made anew, to save memory
    )
    device: Choice | None = None  # "cpu", "cuda" or "mps"
    precision: Choice | None = None  # "float32", or "bfloat16" or "float16" where a GPU gains
    workers: Choice | None = None  # threads that prepare the next images meanwhile
    compile: Choice | None = None  # whether torch.compile is used
    offload: Choice | None = None  # the start stays in its file; how outputs between parts are kept

    @property
    def is_paired(self) -> bool:
        """Whether layers learn from pairs, and the output comes after them."""
        return bool(self.contrastive and self.contrastive.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class InputPlan:
    """What an input looks like."""

    size: Choice  # px of the square that the network sees
    channels: Choice  # 1 grey, 3 colour, 4 colour and alpha, more: bands
    rgb: Choice | None = None  # positions of red, green and blue among more than three bands
    # Of clips of sound alone, see `Sound`:
    sample_rate: Choice | None = None  # samples a second that every clip is brought to
    seconds: Choice | None = None  # what the picture's width stands for
    n_mels: Choice | None = None  # bands of pitch
    top_db: Choice | None = None  # from black to white


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnPlan:
    """What a column of a table is taken for: "number", "category" or "left-out"."""

    name: str
    kind: Choice

    @property
    def is_chosen(self) -> bool:
        """Whether a person wanted it so, by an option or by hand in plan.toml."""
        return self.kind.source == "user" or self.kind.value != self.kind.rule


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """plan.toml: every choice, no "auto" left.

    `parts` go from the input to the output: 1..P, layers that were added, then "output".
    """

    base: Choice
    strategy: Choice
    blocks: tuple[BlockPlan, ...]
    head: HeadPlan
    training: TrainingPlan
    arch: Choice | None = None  # of a start that is a file of weights
    partial: Choice | None = None  # true: of a start that fits in part, what fits was taken
    input: InputPlan | None = None  # None: as the start wants it
    columns: tuple[ColumnPlan, ...] | None = field(default=None, metadata=ABSENT)  # of a table
    examples: int = 0  # of the training set it was made for: an epoch; 0: not known
    format: int = 1

    def action_of(self, name: str) -> Action:
        """What the plan does to a part.

        Raises: PlanError if it has no such part.
        """
        for block in self.blocks:
            if block.name == name:
                return cast(Action, block.action.value)
        raise PlanError(f"the plan has no part {name!r}; it was made for another network.")

    @property
    def samples_seen(self) -> int:
        """Examples that a training sees in all, an example counting each time.

        Raises: PlanError where the plan trains nothing, or epochs is no number.
        """
        if self.training.epochs is None:
            raise PlanError("plan: training.epochs is missing; make a new plan with --dry-run.")
        return round(self.training.epochs.number * self.examples)

    @property
    def is_trained(self) -> bool:
        """Whether some part is trained step by step; else the output alone, in closed form."""
        return any(block.lr is not None for block in self.blocks)


# ---- What a run would take: seconds by stage, memory and disk, before any of it is spent.


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What following a plan will cost on this machine; forecasts, not promises."""

    seconds: dict[str, float]  # by stage, and `total`
    memory_mb: float  # largest resident memory, in 10^6 bytes
    disk_mb: float  # the run folder, and what the look adds to the feature cache

    @property
    def total(self) -> float:
        """Seconds from the command to the finished run folder."""
        return self.seconds["total"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What `fit --dry-run` found: the plan, and what it would cost. Nothing was trained."""

    data: str  # its name
    title: str  # of the start, for people
    n: int  # images to learn from
    n_test: int
    classes: tuple[str, ...]
    plan: Plan
    forecast: Forecast
    parameters: dict[str, int]  # of each part, by its name
    surgery: str = ""  # what does not carry over from the start, in words
    follows_verdict: bool = False  # whether the verdict may still change the plan
    plan_file: str | None = None  # where the plan was written
    kind: Kind | None = field(default=None, metadata=ABSENT)  # of the data; None: images
