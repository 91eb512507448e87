"""One network → one coarse torch.fx graph whose nodes are the network's own blocks.

Traced into are the root's forward, `nn.Sequential`, wrappers that hold most of the parameters,
stages (lists of equal blocks), and the ancestors of the classifier; other modules stay leaves.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import itertools
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

_OPERATORS = "getitem eq ne lt le gt ge add sub mul mod floordiv truediv pow and_ or_"
_ARITHMETIC = tuple(getattr(operator, name) for name in _OPERATORS.split())
_SIZES = ("size", "dim", "numel", "ndimension")
_ATTRIBUTES = ("shape", "ndim", "dtype", "device", "is_cuda", "requires_grad")
_MAX_BRANCHES = 16
Outline = tuple[int, ...] | int | float | str | None  # a tensor's shape, a number, or neither


class _SizeBranch(Exception):
    """The network's Python branches on a size: tracing needs the value of this node (args[0])."""


class _CoarseTracer(fx.Tracer):
    """Traces into the `opened` modules and plain Sequential containers; all others are leaves."""

    def __init__(self, opened: frozenset[str], answers: Sequence[bool]) -> None:
        super().__init__()
        self.opened = opened
        self.proxy_buffer_attributes = True
        self.answers = iter(answers)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        is_container = type(m).forward is nn.Sequential.forward
        return not (is_container or module_qualified_name in self.opened)

    def to_bool(self, obj: fx.Proxy) -> bool:
        # An input's own size is fixed. An answer about data, or the batch size, would hold for
        # these inputs alone.
        if not _is_about_sizes(obj.node) or _counts_inputs(obj.node):
            return super().to_bool(obj)
        answer = next(self.answers, None)
        if answer is None:
            raise _SizeBranch(obj.node)
        return answer


def _is_about_sizes(node: fx.Node) -> bool:
    if node.target is getattr:
        return node.args[1] in _ATTRIBUTES
    if node.target in _ARITHMETIC:
        return bool(node.all_input_nodes) and all(map(_is_about_sizes, node.all_input_nodes))
    return node.op == "call_method" and node.target in _SIZES


def _counts_inputs(node: fx.Node) -> bool:
    """Whether a number depends on the batch: on axis 0, or on all axes at once."""
    if node.target is operator.getitem:
        (value, index) = node.args
        is_shape = isinstance(value, fx.Node) and _is_shape(value)
        return bool(index == 0) if is_shape else any(map(_counts_inputs, node.all_input_nodes))
    if _is_shape(node) or node.target == "numel":
        return True
    if node.op == "call_method" and node.target == "size":
        return 0 in (*node.args[1:], node.kwargs.get("dim"))
    return node.target in _ARITHMETIC and any(map(_counts_inputs, node.all_input_nodes))


def _is_shape(node: fx.Node) -> bool:
    if node.target is getattr:
        return node.args[1] == "shape"
    is_call = node.op == "call_method" and node.target == "size"
    return is_call and len(node.args) == 1 and not node.kwargs


@dataclass(frozen=True, slots=True)
class Trace:
    """A graph, and the constant tensors that it reads besides the network's own."""

    graph: fx.Graph
    constants: dict[str, Tensor]


def traces(module: nn.Module, classifier: str | None, inputs: Tensor) -> Iterator[Trace]:
    """Graphs of a network in eval mode, the finest first; none if it cannot be traced.

    `classifier` is the dotted name of the layer that gives the outputs; it becomes a node.
    `inputs` (B, C, H, W) decides branches of forward that depend on sizes.
    """
    pieces = classifier.split(".") if classifier else []
    opened = frozenset(itertools.accumulate(pieces[:-1], "{}.{}".format))  # around the classifier
    coarse = finest = _trace(module, opened, inputs)
    if coarse is None or finest is None:
        return
    for group in _openable(module):
        if (finer := _trace(module, opened | group, inputs)) is not None:
            finest, opened = finer, opened | group
    yield finest
    if finest is not coarse:
        yield coarse


def _trace(module: nn.Module, opened: frozenset[str], inputs: Tensor) -> Trace | None:
    parameters = list(inspect.signature(module.forward).parameters.values())[1:]
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    answers: list[bool] = []
    while len(answers) < _MAX_BRANCHES:
        clone = shallow_copy(module)  # the tracer leaves constants on the module that it traces
        tracer = _CoarseTracer(opened, answers)
        try:
            graph = tracer.trace(clone, defaults)
        except _SizeBranch as branch:
            tracer.graph.output(branch.args[0])  # run the graph as far as it was traced
            run = fx.Interpreter(clone, graph=tracer.graph).run
            answers.append(bool(run(inputs.clone(), *defaults.values())))
        except Exception:  # tracing runs the network's own Python: it may raise anything
            return None
        else:
            added = {n: value for n, value in vars(clone).items() if n not in vars(module)}
            constants = {n: value for n, value in added.items() if isinstance(value, Tensor)}
            _drop_unused(graph)
            return Trace(graph, constants)
    return None


def shallow_copy(module: nn.Module) -> nn.Module:
    """Copy one module; tensors, submodules and settings are shared."""
    clone = copy.copy(module)
    for registry in ("_modules", "_parameters", "_buffers"):
        clone.__dict__[registry] = dict(module.__dict__[registry])
    return clone


def _drop_unused(graph: fx.Graph) -> None:
    """Drop assertions, and size queries and default arguments without users.

    Nothing else is dropped: an operation whose result is not read may work in place.
    """
    source = next(iter(graph.nodes))
    for node in reversed(list(graph.nodes)):
        is_assertion = "_assert" in getattr(node.target, "__name__", "")
        is_query = node.op == "get_attr" or node.target in (getattr, *_ARITHMETIC, *_SIZES)
        is_default = node.op == "placeholder" and node is not source
        if not node.users and (is_assertion or is_query or is_default):
            graph.erase_node(node)


def _openable(module: nn.Module) -> list[frozenset[str]]:
    """Wrappers and stages, those of one class together, so that depth is cut evenly."""
    total = sum(p.numel() for p in module.parameters())
    groups: dict[type, set[str]] = {}
    for name, child in module.named_modules():
        is_own = not type(child).__module__.startswith("torch.nn.")
        if name and is_own and next(child.children(), None) is not None:
            n_parameters = sum(p.numel() for p in child.parameters())
            if 2 * n_parameters > total or is_stage(child):
                groups.setdefault(type(child), set()).add(name)
    return [frozenset(names) for names in groups.values()]


def is_stage(module: nn.Module) -> bool:
    """Whether a module, or a list directly inside it, holds two or more blocks of one class.

    >>> block = lambda: nn.Sequential(nn.Linear(2, 2))
    >>> is_stage(nn.Sequential(block(), block())), is_stage(nn.Sequential(nn.Linear(2, 2)))
    (True, False)
    """
    lists = [c for c in module.children() if isinstance(c, (nn.Sequential, nn.ModuleList))]
    for candidate in (module, *lists):
        blocks = list(candidate.children())
        is_even = len(blocks) > 1 and len({type(block) for block in blocks}) == 1
        generators = [g for b in blocks for g in (b.parameters(), b.children())]
        if is_even and all(next(generator, None) is not None for generator in generators):
            return True
    return False


class Recorder(fx.Interpreter):
    """Runs a graph and records the outline of every value."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, graph=graph)
        self.outlines: dict[fx.Node, Outline] = {}

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor):  # inputs may be whole numbers
            is_value = n.op == "placeholder" or result.is_floating_point()
            self.outlines[n] = tuple(result.shape) if is_value else "other tensor"
        else:
            self.outlines[n] = result if type(result) in (int, float) else None
        return result


def inline_sizes(graph: fx.Graph, two: Recorder, three: Recorder) -> None:
    """Take numbers out of the data flow, so that only tensors cross from block to block.

    `two` and `three` ran the graph on 2 and 3 examples. A number that is equal in both becomes
    a constant (the input size is fixed); the batch size is read again from the tensor at hand.
    """
    for node in list(graph.nodes):
        small, large = two.outlines.get(node), three.outlines.get(node)
        if not isinstance(small, (int, float)) or node.op in ("placeholder", "output"):
            continue
        for user in list(node.users):
            if small == large:
                _replace_argument(user, node, small)
            elif (small, large) == (2, 3):
                shapes = {n: two.outlines.get(n) for n in user.all_input_nodes}
                batches = (n for n, s in shapes.items() if isinstance(s, tuple) and s[:1] == (2,))
                source = next(batches, None)
                if source is None or source in node.all_input_nodes:
                    continue
                with graph.inserting_before(user):
                    size = graph.call_method("size", (source, 0))
                _replace_argument(user, node, size)
                two.outlines[size] = 2
    _drop_unused(graph)


def _replace_argument(user: fx.Node, old: fx.Node, new: fx.Node | float) -> None:
    arguments = (user.args, user.kwargs)
    user.args, user.kwargs = fx.map_arg(arguments, lambda node: new if node is old else node)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module's own mode is restored at the end."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for child, mode in modes:
            child.training = mode
