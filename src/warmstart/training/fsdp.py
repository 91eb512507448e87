"""Fully sharded data parallelism: each process keeps a share of every weight (FSDP2).

Zhao et al. 2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", by torch's
`fully_shard` (https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

from warmstart.distributed import here, process_errors
from warmstart.errors import PlanError
from warmstart.events import Event
from warmstart.training.batches import Inputs
from warmstart.training.data_parallel import (
    DataParallel,
    StepWork,
    has_batch_statistics,
    sharding_note,
)


class ShardedDataParallel(DataParallel):
    """Data parallelism that shards weights, gradients and optimizer moments as well.

    `groups` names modules that run, and are gathered, together. FSDP2 changes the type of weights
    for good, so between `begin` and `end` it gets a clone, whose shards the network's parameters
    view.
    Raises: PlanError for a weight that is a single number, which cannot be sharded.
    """

    allows_fusion = False  # the other layer may not be gathered at that moment
    is_sharded = True

    def __init__(
        self,
        network: nn.Module,
        groups: Sequence[Sequence[str]],
        state: Mapping[str, Tensor],
        device: str,
    ) -> None:
        super().__init__(network, device)
        self._module, self._groups = network, groups
        self._parameters = {n: t for n, t in state.items() if isinstance(t, nn.Parameter)}
        single = [name for name, tensor in self._parameters.items() if not tensor.ndim]
        if single:
            raise PlanError(
                f"{single[0]} is a single number, which fsdp cannot shard; use --parallel data."
            )
        self._sizes = {name: tensor.shape for name, tensor in self._parameters.items()}
        self._tensors = [*network.parameters(), *network.buffers()]
        self._template = copy.deepcopy(network, {id(t): t for t in self._tensors})
        self._mesh: DeviceMesh = init_device_mesh(device, (here().size,))
        self._clone: nn.Module | None = None
        self._pairs: list[tuple[Tensor, nn.Parameter, tuple[int, ...]]] = []
        self._largest = 0.0

    def begin(self) -> None:
        shared = {id(tensor): tensor for tensor in self._tensors}
        for tensor in self._tensors:
            if isinstance(tensor, nn.Parameter):  # torch may replace it
                contiguous = tensor.data.contiguous()
                shared[id(tensor)] = nn.Parameter(contiguous, tensor.requires_grad)
        clone = copy.deepcopy(self._template, shared)
        for names in self._groups:
            members = [clone.get_submodule(name) for name in names]
            fully_shard(members, mesh=self._mesh, reshard_after_forward=True)
        fully_shard(clone, mesh=self._mesh, reshard_after_forward=True)
        shards, n_local, n_total = dict(clone.named_parameters()), 0, 0
        for name, tensor in self._module.named_parameters():
            shard, stride = shards[name], tensor.stride()
            local = cast(DTensor, shard).to_local()
            n_local, n_total = n_local + local.numel(), n_total + tensor.numel()
            tensor.data = local.detach()
            self._pairs.append((tensor, shard, stride))
        self._largest = n_local / max(n_total, 1)
        self._clone = self._wrapped = clone
        self.is_whole = False

    @process_errors()
    @torch.no_grad()
    def end(self) -> None:
        for tensor, shard, stride in self._pairs:
            whole = cast(DTensor, shard.data).full_tensor()
            tensor.data = whole.new_empty_strided(whole.shape, stride).copy_(whole)
        self._clone, self._pairs, self._wrapped = None, [], self._module
        self.is_whole = True

    @process_errors()
    def gradients(self, inputs: Inputs, labels: Tensor, work: StepWork) -> float:
        self._sync_modes()
        for _, shard, _ in self._pairs:
            shard.grad = None
        loss = super().gradients(inputs, labels, work)
        for tensor, shard, _ in self._pairs:
            if shard.grad is not None:
                tensor.grad = cast(DTensor, shard.grad).to_local()
        return loss

    @process_errors()
    def run(self, *inputs: Tensor) -> Tensor:
        if self._clone is None:
            return super().run(*inputs)
        self._sync_modes()
        world, n = here(), len(inputs[0])
        is_split = n >= world.size and not has_batch_statistics(self._module)
        share = slice(world.rank, None, world.size) if is_split else slice(None)
        # Weights gathered in inference mode could not be trained any more.
        with torch.inference_mode(mode=False), torch.no_grad():
            local: Tensor = self._clone(*(value[share].clone() for value in inputs))
        if not is_split:
            return local
        logits = local.new_empty(n, *local.shape[1:])
        for rank, rows in enumerate(world.gather(local.cpu())):
            logits[rank :: world.size] = rows.to(local.device)
        return logits

    def local_shard(self, name: str, value: Tensor) -> Tensor:
        if value.shape != self._sizes.get(name):
            return value
        world, n = here(), len(value)
        chunk = -(-n // world.size)
        return value[min(world.rank * chunk, n) : min((world.rank + 1) * chunk, n)]

    def with_placement(self, name: str, shard: Tensor) -> Tensor:
        size = self._sizes.get(name)
        if size is None or shard.ndim != len(size):
            return shard
        return self._as_dtensor(shard, size)

    @process_errors()
    @torch.no_grad()
    def broadcast(self) -> None:
        if self.is_whole:
            for name, tensor in self._parameters.items():
                local = self.local_shard(name, tensor.data)
                tensor.data.copy_(self._as_dtensor(local, tensor.shape).full_tensor())

    def sharding_note(self) -> Event:
        largest = max(here().gather(self._largest))
        return sharding_note("Shards", "processes", largest, " between two blocks")

    def _sync_modes(self) -> None:
        """Copy train or eval mode, and the momentum of norms, from the network to the clone."""
        pairs = zip(self._module.modules(), cast(nn.Module, self._clone).modules(), strict=True)
        for module, clone in pairs:
            clone.training = module.training
            if "momentum" in vars(module):  # changed while statistics are recomputed
                vars(clone)["momentum"] = vars(module)["momentum"]

    def _as_dtensor(self, local: Tensor, size: torch.Size) -> DTensor:
        stride = torch.empty(size, device="meta").stride()
        return DTensor.from_local(
            local.contiguous(), self._mesh, [Shard(0)], run_check=False, shape=size, stride=stride
        )
