"""Each process keeps a share of every weight, its gradient and its moments: FSDP2.

Zhao et al. 2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", by torch's
`fully_shard` (https://docs.pytorch.org/docs/stable/distributed.fsdp.fully_shard.html). Rows are
shared as ever. Between updates a process holds rows of each weight alone; a part of the network
is put together for as long as it runs. At the end all of them hold the whole network again.
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

from warmstart.distributed import ALONE, ProcessGroup, exchanging, here
from warmstart.errors import PlanError
from warmstart.training.data_parallel import DataParallel, Inputs, ShardingReport, StepWork, gathers


class Sharded(DataParallel):
    """A way of training: see `parallel.Way`.

    `network` maps inputs to logits; `groups` names modules in it that run, and are put together,
    one group at a time. `state`: all tensors by the names that `Trainer` calls them.
    FSDP2 turns weights into tensors of its own kind for good. So it is given a twin of the
    network, between `begin` and `end`; the network's own parameters are views of its shares.
    Raises: PlanError for a weight that is a single number, which cannot be shared.
    """

    is_near = False  # another one may not be put together at that moment

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
                f"{single[0]} is a single number, of which fsdp cannot give each process a share; "
                "use --parallel data."
            )
        self._sizes = {name: tensor.shape for name, tensor in self._parameters.items()}
        self._tensors = [*network.parameters(), *network.buffers()]
        self._plain_twin = _twin(network, {id(t): t for t in self._tensors})
        self._mesh: DeviceMesh = init_device_mesh(device, (here().size,))
        self._twin: nn.Module | None = None
        self._pairs: list[tuple[Tensor, nn.Parameter, tuple[int, ...]]] = []
        self._largest = 0.0

    @property
    def world(self) -> ProcessGroup:
        """Rows to look at are shared by `run` while nobody holds the whole network."""
        return ALONE if self._twin is not None else here()

    @property
    def is_whole(self) -> bool:
        """Not between updates."""
        return self._twin is None

    def begin(self) -> None:
        """Keep the own share of every weight, and let go of the rest."""
        clone = _twin(self._plain_twin, {id(t): _fresh(t) for t in self._tensors})
        for names in self._groups:
            members = [clone.get_submodule(name) for name in names]
            fully_shard(members, mesh=self._mesh, reshard_after_forward=True)
        fully_shard(clone, mesh=self._mesh, reshard_after_forward=True)
        shares, held, whole = dict(clone.named_parameters()), 0, 0
        for name, tensor in self._module.named_parameters():
            share, order = shares[name], tensor.stride()
            own = cast(DTensor, share).to_local()
            held, whole = held + own.numel(), whole + tensor.numel()
            tensor.data = own.detach()
            self._pairs.append((tensor, share, order))
        self._largest = held / max(whole, 1)
        self._twin = self._wrapped = clone

    @exchanging()
    @torch.no_grad()
    def end(self) -> None:
        """Take back what others keep."""
        for tensor, share, order in self._pairs:
            whole = cast(DTensor, share.data).full_tensor()
            tensor.data = whole.new_empty_strided(whole.shape, order).copy_(whole)
        self._twin, self._pairs, self._wrapped = None, [], self._module

    @exchanging()
    def gradients(self, inputs: Inputs, labels: Tensor, work: StepWork) -> float:
        """As rows are shared; each process is left with its share of the mean gradient."""
        self._as_it_is()
        for _, share, _ in self._pairs:
            share.grad = None
        loss = super().gradients(inputs, labels, work)
        for tensor, share, _ in self._pairs:
            if share.grad is not None:
                tensor.grad = cast(DTensor, share.grad).to_local()
        return loss

    @exchanging()
    def run(self, *inputs: Tensor) -> Tensor:
        """Logits in every process, each of which passes its share of the rows."""
        if self._twin is None:
            return super().run(*inputs)
        self._as_it_is()
        world, n = here(), len(inputs[0])
        is_shared = n >= world.size and not gathers(self._module)
        own = slice(world.rank, None, world.size) if is_shared else slice(None)
        # What is put together in inference mode could not be trained with any more.
        with torch.inference_mode(mode=False), torch.no_grad():
            made: Tensor = self._twin(*(value[own].clone() for value in inputs))
        if not is_shared:
            return made
        found = made.new_empty(n, *made.shape[1:])
        for rank, rows in enumerate(world.gathered(made.cpu())):
            found[rank :: world.size] = rows.to(made.device)
        return found

    def block(self, name: str, value: Tensor) -> Tensor:
        """The own rows of a whole weight, or of what belongs to each number of it."""
        if value.shape != self._sizes.get(name):
            return value
        return value[self._rows(len(value))]

    def placed(self, name: str, value: Tensor) -> Tensor:
        """A tensor that knows which rows of the whole it holds."""
        size = self._sizes.get(name)
        if size is None or value.ndim != len(size):
            return value
        return self._among_others(value, size)

    @exchanging()
    @torch.no_grad()
    def spread(self) -> None:
        """Each process's rows to all, where all of them hold the whole."""
        if self._twin is None:
            for name, tensor in self._parameters.items():
                own = self.block(name, tensor.data)
                tensor.data.copy_(self._among_others(own, tensor.shape).full_tensor())

    def agreed(self, value: bool) -> bool:
        """As the first process says."""
        return here().same(value)

    def told(self) -> ShardingReport:
        """The largest share of the weights that one process held."""
        return ShardingReport(max(here().gathered(self._largest)))

    def _as_it_is(self) -> None:
        """The twin trains, rests and remembers as the network does."""
        pairs = zip(self._module.modules(), cast(nn.Module, self._twin).modules(), strict=True)
        for module, clone in pairs:
            clone.training = module.training
            if "momentum" in vars(module):  # of norms, which may be told another one for a while
                vars(clone)["momentum"] = vars(module)["momentum"]

    def _rows(self, n: int) -> slice:
        """Which of n rows this process keeps: as torch's chunks are."""
        world = here()
        each = -(-n // world.size)
        return slice(min(world.rank * each, n), min((world.rank + 1) * each, n))

    def _among_others(self, own: Tensor, size: torch.Size) -> DTensor:
        order = torch.empty(size, device="meta").stride()
        return DTensor.from_local(
            own.contiguous(), self._mesh, [Shard(0)], run_check=False, shape=size, stride=order
        )


def _fresh(tensor: Tensor) -> Tensor:
    """A parameter that torch may take for its own, dense as it wants them; or a buffer itself."""
    if not isinstance(tensor, nn.Parameter):
        return tensor
    return nn.Parameter(tensor.data.contiguous(), tensor.requires_grad)


def _twin(network: nn.Module, tensors: Mapping[int, Tensor]) -> nn.Module:
    """The same modules around other tensors, or the same ones."""
    return copy.deepcopy(network, dict(tensors))
