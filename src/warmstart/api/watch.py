"""`warmstart.watch`: what your own training loop did to each tensor, bit for bit."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from warmstart.api.plan import actions_of
from warmstart.errors import TrainingError, UsageError
from warmstart.network.freeze import behaviour_of
from warmstart.network.ledger import prove_frozen
from warmstart.network.structure import OUTPUT, Sections, sections_for
from warmstart.network.weights import STATISTICS, digest, unique_tensors
from warmstart.records.block_actions import ADDED, Action
from warmstart.records.network import Fate, Ledger, LedgerRow
from warmstart.records.plan import Plan
from warmstart.records.summary import FrozenProof

CURE = "Use warmstart.freeze(network, plan)"
NAMED = 3  # tensors that an error names


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A tensor of a frozen block whose bytes have changed."""

    tensor: str
    block: str
    action: Action
    is_buffer: bool
    is_statistic: bool  # a running mean, variance or count of a BatchNorm layer


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """The fate of every tensor of a network, and what does not agree with the plan."""

    ledger: Ledger
    frozen: FrozenProof
    moved: tuple[Moved, ...]
    untrained: tuple[str, ...]  # blocks that were to be trained and in which nothing moved


def watch(network: nn.Module, plan: Plan) -> Proof:
    """Watch a network through your own training; nothing is changed, frozen or repaired.

        with warmstart.watch(network, plan) as proof:
            my_own_trainer.train()
        print(proof)

    All parameters and saved buffers are compared bit for bit.
    Raises: PlanError (at `with`) if the plan was made for another network.

    >>> import warmstart
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3), nn.Linear(3, 2))
    >>> plan = warmstart.plan(net, "last:1")
    >>> with watch(net, plan) as proof:
    ...     _ = net[0].weight.data.add_(1)
    >>> [moved.tensor for moved in proof.moved], proof.untrained
    (['0.weight'], ('2', 'output'))
    """
    return Proof(network, plan)


class Proof:
    """The result of `watch`, complete when its `with` block has ended, also after an exception."""

    def __init__(self, network: nn.Module, plan: Plan) -> None:
        self._network, self._plan = network, plan
        self._sections: Sections | None = None
        self._before: dict[str, tuple[str, Tensor]] = {}  # sha256, and the tensor itself
        self._findings: Findings | None = None

    def __enter__(self) -> Proof:
        self._sections = sections_for(self._network, self._plan)
        self._before = snapshot(self._network)
        self._findings = None
        return self

    def __exit__(self, *error: object) -> None:
        if self._sections is not None:
            self._findings = compare(self._network, self._before, self._sections, self._plan)
            self._before = {}  # releases a head that was replaced

    @property
    def findings(self) -> Findings:
        """The whole result. Raises: UsageError while the block runs."""
        if self._findings is None:
            raise UsageError(
                "the proof is taken when the block of `with warmstart.watch(…) as proof:` ends; "
                "read it after the block."
            )
        return self._findings

    @property
    def moved(self) -> tuple[Moved, ...]:
        """Tensors of frozen blocks whose bytes changed, from the input to the output."""
        return self.findings.moved

    @property
    def frozen(self) -> FrozenProof:
        """How many numbers of the frozen blocks are unchanged, and whether all are."""
        return self.findings.frozen

    @property
    def ledger(self) -> Ledger:
        """Every tensor of the network before and after, and its fate."""
        return self.findings.ledger

    @property
    def untrained(self) -> tuple[str, ...]:
        """Blocks that were to be trained and in which nothing moved."""
        return self.findings.untrained

    def check(self) -> None:
        """Raises: TrainingError naming the first tensors if anything frozen moved."""
        require_frozen(self.findings)

    def __str__(self) -> str:
        if self._findings is None:
            return "watching; the proof is taken when the block ends"
        return "\n".join(_lines(self._findings, self._plan))


def snapshot(network: nn.Module) -> dict[str, tuple[str, Tensor]]:
    """The sha256 of each tensor, and the tensor itself, for `compare`."""
    tensors = unique_tensors(network)
    return {name: (digest(tensor), tensor) for name, tensor in tensors.items()}


def compare(
    network: nn.Module,
    before: Mapping[str, tuple[str, Tensor]],
    sections: Sections,
    plan: Plan,
) -> Findings:
    """Compare a network with its `snapshot` before training.

    A tensor is looked up by its name, then, where wrappers have renamed it, by identity.
    """
    now = {n: t for n, t in network.state_dict(keep_vars=True).items() if isinstance(t, Tensor)}
    names = {id(tensor): name for name, tensor in reversed(now.items())}
    rows, matched = [], set()
    for name, (sha256, old) in before.items():
        place = name if name in now else names.get(id(old))
        matched.add(place)
        rows.append(_row(name, sections.owners[name], sha256, old, now.get(place or "")))
    matched_ids = {id(now[place]) for place in matched if place is not None}
    for name, tensor in unique_tensors(network).items():
        if id(tensor) not in matched_ids:
            new = _row(name, ADDED.name, digest(tensor), tensor, tensor)
            rows.append(replace(new, fate="new", before=None))
    ledger = Ledger(rows=tuple(rows))
    actions = actions_of(plan)
    blocks = {*actions, *sections.owners.values()}
    frozen = frozenset(block for block in blocks if not behaviour_of(actions, block).is_trained)
    changed = {row.block for row in rows if row.fate not in ("frozen", "dropped")}
    trainable = {row.block for row in rows if not row.buffer}
    return Findings(
        ledger=ledger,
        frozen=prove_frozen(ledger, frozen),
        moved=tuple(
            Moved(
                tensor=row.tensor,
                block=row.block,
                action=behaviour_of(actions, row.block).name,
                is_buffer=row.buffer,
                is_statistic=_is_statistic(row),
            )
            for row in rows
            if row.block in frozen and row.fate in ("trained", "reshaped")
        ),
        untrained=tuple(
            n for n in actions if n in trainable and n not in frozen and n not in changed
        ),
    )


def require_frozen(findings: Findings) -> None:
    """Raises: TrainingError naming the first tensors if anything frozen moved."""
    if names := [moved.tensor for moved in findings.moved]:
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        first = ", ".join(names[:NAMED])
        raise TrainingError(
            f"{_tensors(len(names))} of frozen blocks moved: {first}{more}. {CURE}."
        )


def _row(name: str, block: str, sha256: str, old: Tensor, tensor: Tensor | None) -> LedgerRow:
    after = None if tensor is None else digest(tensor)
    fate: Fate = "frozen" if after == sha256 else "trained"
    if tensor is None:
        fate = "dropped"
    elif tensor.shape != old.shape:
        fate = "reshaped"
    return LedgerRow(
        tensor=name,
        block=block,
        fate=fate,
        shape=tuple(old.shape),
        numel=old.numel(),
        buffer=not isinstance(old, nn.Parameter),
        before=sha256,
        after=after,
    )


def _is_statistic(row: LedgerRow) -> bool:
    return row.buffer and row.tensor.rpartition(".")[2] in STATISTICS


def _lines(findings: Findings, plan: Plan) -> Iterator[str]:
    rows, order = findings.ledger.rows, [block.name for block in plan.blocks]
    frozen = [block.name for block in plan.blocks if not block.behaviour.is_trained]
    unchanged = [row for row in rows if row.block in frozen and row.fate == "frozen"]
    yield f"frozen: {_tensors(len(unchanged))} of {_layers(frozen, order)} unchanged"
    for is_statistic in (True, False):
        if moved := [m for m in findings.moved if m.is_statistic == is_statistic]:
            yield _moved_line(moved, rows, order)
    trained = [row for row in rows if row.fate == "trained" and row.block not in frozen]
    if trained:
        blocks = {row.block for row in trained}
        yield f"trained: {_tensors(len(trained))} of {_layers(blocks, order)}"
    if findings.untrained:
        trains = f"the plan trains {'it' if len(findings.untrained) == 1 else 'them'}"
        yield (
            f"nothing moved in {_layers(findings.untrained, order)} although {trains}: does the "
            "optimizer hold their parameters?"
        )
    for fate in ("reshaped", "dropped", "new"):
        if some := [row for row in rows if row.fate == fate]:
            yield f"{fate}: {_tensors(len(some))}, first {some[0].tensor}"


def _moved_line(moved: Sequence[Moved], rows: Sequence[LedgerRow], order: Sequence[str]) -> str:
    blocks = {m.block for m in moved}
    where = _layers(blocks, order)
    if moved[0].is_statistic:
        total = sum(_is_statistic(row) and row.block in blocks for row in rows)
        return (
            f"{len(moved)} of {total} BatchNorm statistics of {where} moved although they were "
            f"frozen: they were in train mode. {CURE}, or call .eval() on them after every .train()"
        )
    return (
        f"{_tensors(len(moved))} of {where} moved although frozen, first {moved[0].tensor}. {CURE} "
        "before the optimizer is made"
    )


def _tensors(count: int) -> str:
    return f"{count:,} tensor{'s' if count != 1 else ''}"


def _layers(names: Collection[str], order: Sequence[str]) -> str:
    """Blocks as a person counts them.

    >>> order = ("stem", "low", "middle", "top", "output")
    >>> _layers(("stem", "low", "middle", "output"), order), _layers(("low", "top"), order)
    ('blocks 1-3 and the output', 'blocks 2, 4')
    >>> _layers(("output",), order), _layers((), order)
    ('the output', 'no block')
    """
    numbers = [n for n, name in enumerate(order, start=1) if name in names and name != OUTPUT]
    firsts = [n for n in numbers if n - 1 not in numbers]
    lasts = [n for n in numbers if n + 1 not in numbers]
    ranges = zip(firsts, lasts, strict=True)
    text = ", ".join(f"{a}-{b}" if a < b else str(a) for a, b in ranges)
    words = [f"block{'s' if len(numbers) > 1 else ''} {text}"] if numbers else []
    return " and ".join([*words, *(["the output"] if OUTPUT in names else [])]) or "no block"
