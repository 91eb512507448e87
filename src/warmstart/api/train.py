"""`warmstart.train`: follow a plan on your own network, update by update."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from warmstart.api.plan import Frozen, actions_of, lrs_of
from warmstart.api.watch import Findings, compare, require_frozen, snapshot
from warmstart.errors import DataError, PlanError
from warmstart.events import Event
from warmstart.network.freeze import behaviour_of
from warmstart.network.segments import as_tensor
from warmstart.network.structure import Sections, sections_for
from warmstart.planning.schedule import Schedule, schedule
from warmstart.records.plan import Plan
from warmstart.training.guards import Alarm, Watch, largest_change
from warmstart.training.trainer import (
    Batch,
    DataParallel,
    Trainer,
    divergence_error,
    seeded,
    warm_cosine,
)

Loss = Callable[[Any, Any], Tensor]  # outputs of the network, labels -> one number


def train(
    plan: Plan,
    network: nn.Module,
    data: Iterable[Any],
    *,
    seed: int | None = None,
    loss: Loss | None = None,
) -> Iterator[Event]:
    """Train a network in place by a plan, with one event after each update; you may stop any time.

    `data` gives batches (inputs, labels) and can be iterated again, as a `DataLoader` or a list
    can: inputs are a tensor or a mapping of tensors, labels (B,) class numbers. A mapping that
    holds "labels" is a batch too. The network may give logits (B, K) or an object that holds
    them. Training lasts for the plan's epochs, counted by its `examples`, or else by the length
    of `data`; the learning rates rise, then fall along a cosine. The network is trained as it
    is: nothing is added or removed.

    An alarm of the guards is an event of kind "guard" whose values are `kind` ("diverged": the
    loss rose; "stuck": it stayed that of constant answers, or nothing moved) and `text`; each kind
    comes once, and training goes on: stopping is yours.

    At the end, or when closed early, modes and gradient flags are restored, and frozen tensors
    are compared bit for bit. The same seed (the plan's, unless given) and the same batches give
    the same network; the global random state is left alone.

    Raises: PlanError if the plan does not fit the network or trains nothing; while it runs,
    DataError for invalid batches, TrainingError where the loss or the answers are not finite,
    or a frozen tensor moved.

    >>> import warmstart
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> batches = [(torch.zeros(50, 4), torch.zeros(50, dtype=torch.int64))]
    >>> events = list(train(warmstart.plan(net), net, batches))
    >>> len(events), events[-1].values["moved"]
    (11, 0)
    """
    does = {block.name: block.behaviour for block in plan.blocks}
    if surgery := [f"{n}: {a.name}" for n, a in does.items() if a.has_updates or a.is_new]:
        raise PlanError(
            f"the plan changes the network itself ({surgery[0]}), which warmstart.fit does; "
            "warmstart.plan makes plans that train a network as it is."
        )
    if not plan.is_trained:
        raise PlanError(
            "the plan trains nothing step by step: its output is solved in closed form by "
            "warmstart.fit; warmstart.plan(network) makes one that does."
        )
    settings = replace(
        schedule(plan),
        # The network is trained as it is, on whole batches: their loss is a mean already.
        ema_decay=0.0,
        l2_sp=0.0,
        precision="float32",
        micro_batch=1,
    )
    if seed is not None:
        settings = replace(settings, seed=seed)
    return _Training(network, plan, sections_for(network, plan), settings, loss).events(data)


@dataclass(frozen=True, slots=True)
class _Training:
    network: nn.Module
    plan: Plan
    sections: Sections
    schedule: Schedule
    loss: Loss | None = None  # the user's own

    def events(self, data: Iterable[Any]) -> Iterator[Event]:
        before = snapshot(self.network)
        try:
            with Frozen(self.network, self.plan, self.sections) as frozen:
                yield from self._steps(frozen, data)
        except GeneratorExit:  # stopped by the caller
            self._prove(before)
            raise
        rows, actions = self._prove(before).ledger.rows, actions_of(self.plan)
        n_frozen = sum(not behaviour_of(actions, row.block).is_trained for row in rows)
        # A frozen tensor that moved has raised TrainingError.
        yield Event(stage="fine_tune", kind="end", values={"frozen": n_frozen, "moved": 0})

    def _prove(self, before: Mapping[str, tuple[str, Tensor]]) -> Findings:
        findings = compare(self.network, before, self.sections, self.plan)
        require_frozen(findings)
        return findings

    def _steps(self, frozen: Frozen, data: Iterable[Any]) -> Iterator[Event]:
        settings, peak = self.schedule, max(lrs_of(self.plan).values())
        way = _WholeBatches(self._batch_loss, settings.device)
        # No tensors are named: the weights are the caller's, of which no copies are made.
        trainer = Trainer(self._batch_loss, {}, settings, parallelism=way)
        trainer.begin(frozen.groups())
        loader = _Loader(data, self.network, self.sections.n_outputs, self.loss is None)
        stream = loader.batches()
        first = next(stream)
        n_steps = _n_steps(self.plan, data, len(first[1]))
        state: dict[str, float] = {}

        def watch() -> Watch:
            # Class shares are counted during training, for the data are not read before it. A new
            # output begins with the loss of constant answers, as fresh blocks do.
            shares = [*loader.n_by_class.values()]
            watch = Watch(
                n_steps=n_steps, warm_up=settings.warmup, class_shares=shares, begins_fitted=False
            )
            if state:
                watch.restore(state)
            return watch

        def alarms(alarm: Alarm | None) -> Iterator[Event]:
            if alarm is not None:
                yield Event(
                    stage="fine_tune",
                    kind="guard",
                    step=alarm.step,
                    of=n_steps,
                    values={"kind": alarm.kind, "text": alarm.sentence},
                )

        before = self._answers(first[0])
        factors = warm_cosine(n_steps, settings.warmup)
        batches = islice(chain([first], stream), n_steps)
        self.network.train()
        for step in trainer.train(batches, factors):
            if not math.isfinite(step.loss):
                what = f"the loss is {step.loss} at step {step.index + 1}"
                raise divergence_error(peak, what)
            lr = step.factor * peak
            yield Event(
                stage="fine_tune",
                kind="step",
                step=step.index + 1,
                of=n_steps,
                values={"loss": step.loss, "lr": lr, "images": loader.n_seen},
            )
            guard = watch()
            alarm = guard.see(step.index + 1, step.loss)
            state = guard.state
            yield from alarms(alarm)
        after = self._answers(first[0])
        if not np.isfinite(after).all():
            raise divergence_error(peak)  # by the last update, after the last loss
        yield from alarms(watch().finish(largest_change(before, after)))

    def _answers(self, inputs: Any) -> NDArray[np.float64]:
        """Logits (B, K) of one batch in eval mode; modes and random state stay as they are."""
        modes = [(module, module.training) for module in self.network.modules()]
        self.network.eval()
        try:
            with torch.no_grad(), seeded(self.schedule.seed):
                logits = self._logits(inputs).double().flatten(1)
                if logits.shape[1] == 1:  # the change of a lone number shows against 0
                    logits = torch.cat([logits, torch.zeros_like(logits)], dim=1)
                answers: NDArray[np.float64] = logits.cpu().numpy()
                return answers
        finally:
            for module, mode in modes:
                module.training = mode

    def _batch_loss(self, inputs: Any, labels: Tensor) -> Tensor:
        """One number: the user's own loss, or the mean cross-entropy."""
        if self.loss is not None:
            return self.loss(self._forward(inputs), labels)
        return cross_entropy(self._logits(inputs), labels)

    def _logits(self, inputs: Any) -> Tensor:
        return as_tensor(self._forward(inputs))

    def _forward(self, inputs: Any) -> Any:
        return self.network(**inputs) if isinstance(inputs, Mapping) else self.network(inputs)


class _WholeBatches(DataParallel):
    """Gradients of batches whose inputs may be anything, from the loss of the whole batch."""

    def gradients(self, inputs: Any, labels: Tensor, trainer: Trainer) -> float:
        loss = self._network(inputs, labels)
        value = float(loss.detach())
        if math.isfinite(value):
            loss.backward()  # type: ignore[no-untyped-call]
        return value


def _n_steps(plan: Plan, data: Iterable[Any], batch: int) -> int:
    """Updates in the plan's epochs. Raises: DataError where the length of an epoch is unknown."""
    if plan.examples:
        return -(-plan.samples_seen // batch)
    if not isinstance(data, Sized):
        raise DataError(
            "data has no length, so that an epoch cannot be counted; give warmstart.plan the "
            "number of examples: n=…"
        )
    epochs = plan.training.epochs  # `schedule` has refused a plan without
    return math.ceil((epochs.number if epochs else 0) * len(data))


@dataclass(slots=True)
class _Loader:
    data: Iterable[Any]
    network: nn.Module
    n_outputs: int | None
    are_classes: bool = True  # whether labels are class numbers; else any tensors (B, …)
    n_seen: int = 0  # samples so far
    n_by_class: Counter[int] = field(default_factory=Counter)

    def batches(self) -> Iterator[Batch]:
        """Raises: DataError where an iteration gives no batch, or an invalid one."""
        device = next(self.network.parameters()).device
        while True:
            n_before = self.n_seen
            for batch in self.data:
                inputs, labels = self._split(batch)
                self.n_seen += len(labels)
                self.n_by_class.update(labels.tolist() if self.are_classes else [0])
                yield _to_device(inputs, device), labels.to(device)
            if self.n_seen == n_before:
                if n_before:
                    raise DataError(
                        "data gives no batch when it is iterated again; give a DataLoader or a "
                        "list, not an iterator."
                    )
                raise DataError("data gives no batch; give (inputs, labels) batches.")

    def _split(self, batch: Any) -> Batch:
        if isinstance(batch, Mapping) and "labels" in batch:
            inputs: Any = {name: value for name, value in batch.items() if name != "labels"}
            labels = batch["labels"]
        elif isinstance(batch, (tuple, list)) and len(batch) == 2:
            inputs, labels = batch
        else:
            raise DataError(f"a batch of data is a {type(batch).__name__}; give (inputs, labels).")
        labels = torch.as_tensor(labels)
        if not self.are_classes:
            if not labels.ndim or not len(labels):
                raise DataError(
                    f"labels of a batch have shape {tuple(labels.shape)}; their first axis is that "
                    "of the batch."
                )
            return inputs, labels
        if labels.ndim != 1 or labels.is_floating_point() or not len(labels):
            raise DataError(
                f"labels of a batch are {labels.dtype} of shape {tuple(labels.shape)}; "
                "give class numbers (B,), int64."
            )
        if self.n_outputs is not None and not 0 <= labels.min() <= labels.max() < self.n_outputs:
            raise DataError(
                f"labels of a batch go from {labels.min()} to {labels.max()} and the network "
                f"gives {self.n_outputs} numbers; put in a new last layer, then make the plan."
            )
        return inputs, labels.long()


def _to_device(inputs: Any, device: torch.device) -> Any:
    if isinstance(inputs, Mapping):
        return {name: _to_device(value, device) for name, value in inputs.items()}
    return inputs.to(device) if isinstance(inputs, Tensor) else inputs
