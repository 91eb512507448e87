"""One network → one coarse torch.fx graph whose nodes are the network's own blocks.

Only the top level is opened: the root's forward, `nn.Sequential` containers, wrappers that
hold most of the parameters, stages (lists of equal blocks), and what encloses the
classifier. Every other module stays whole, with its own train and eval behaviour.
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

_ARITHMETIC: tuple[Any, ...] = (
    operator.getitem,
    operator.eq,
    operator.ne,
    operator.lt,
    operator.le,
    operator.gt,
    operator.ge,
    operator.add,
    operator.sub,
    operator.mul,
    operator.mod,
    operator.floordiv,
    operator.truediv,
    operator.pow,
    operator.and_,
    operator.or_,
)
_SIZES = ("size", "dim", "numel", "ndimension")
_ATTRIBUTES = ("shape", "ndim", "dtype", "device", "is_cuda", "requires_grad")
_MOST_QUESTIONS = 16
Outline = tuple[int, ...] | int | float | str | None  # a tensor's shape, a number, or neither


class _Question(Exception):
    """The network's Python branches on a size: the answer is needed to go on."""

    def __init__(self, node: fx.Node) -> None:
        super().__init__(f"{node.name} is asked for its truth")
        self.node = node


class _Coarse(fx.Tracer):
    """Leaves all modules closed except the opened ones and plain Sequential containers."""

    def __init__(self, opened: frozenset[str], answers: Sequence[bool]) -> None:
        super().__init__()
        self.opened = opened
        self.proxy_buffer_attributes = True
        self.answers = iter(answers)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module stays whole."""
        is_container = type(m).forward is nn.Sequential.forward
        return not (is_container or module_qualified_name in self.opened)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Answer what depends on an input's own size, which is fixed; refuse what depends on
        data, or on how many inputs come at once: the answer would hold for these alone."""
        if not _is_about_sizes(obj.node) or _counts_inputs(obj.node):
            return super().to_bool(obj)
        answer = next(self.answers, None)
        if answer is None:
            raise _Question(obj.node)
        return answer


def _is_about_sizes(node: fx.Node) -> bool:
    if node.target is getattr:
        return node.args[1] in _ATTRIBUTES
    if node.target in _ARITHMETIC:
        asked = node.all_input_nodes
        return bool(asked) and all(_is_about_sizes(n) for n in asked)
    return node.op == "call_method" and node.target in _SIZES


def _counts_inputs(node: fx.Node) -> bool:
    """Whether a number depends on the batch: on axis 0, or on all axes at once."""
    if node.target is operator.getitem:
        (whole, place) = node.args
        is_shape = isinstance(whole, fx.Node) and _is_shape(whole)
        return bool(place == 0) if is_shape else any(map(_counts_inputs, node.all_input_nodes))
    if _is_shape(node) or node.target == "numel":
        return True
    if node.op == "call_method" and node.target == "size":
        return 0 in (*node.args[1:], node.kwargs.get("dim"))
    return node.target in _ARITHMETIC and any(map(_counts_inputs, node.all_input_nodes))


def _is_shape(node: fx.Node) -> bool:
    """Whether a node gives the sizes of all axes."""
    if node.target is getattr:
        return node.args[1] == "shape"
    is_call = node.op == "call_method" and node.target == "size"
    return is_call and len(node.args) == 1 and not node.kwargs


@dataclass(frozen=True, slots=True)
class Trace:
    """A graph, and the constant tensors that it reads besides the network's own."""

    graph: fx.Graph
    constants: dict[str, Tensor]


def attempts(module: nn.Module, classifier: str | None, inputs: Tensor) -> Iterator[Trace]:
    """Graphs of a network in eval mode, the most finely opened first; none if untraceable.

    `classifier` is the dotted name of the layer that gives the outputs; it becomes a node.
    `inputs` (B, C, H, W) answers the questions about sizes that forward asks.
    """
    needed = wanted = _ancestors(classifier)
    coarse = finest = _traced(module, needed, inputs)
    if coarse is None or finest is None:
        return
    for group in _openable(module):
        if (finer := _traced(module, wanted | group, inputs)) is not None:
            finest, wanted = finer, wanted | group
    yield finest
    if finest is not coarse:
        yield coarse


def _traced(module: nn.Module, opened: frozenset[str], inputs: Tensor) -> Trace | None:
    answers: list[bool] = []
    while len(answers) < _MOST_QUESTIONS:
        clone = shallow_copy(module)  # the tracer leaves constants on the module that it traces
        tracer = _Coarse(opened, answers)
        try:
            graph = tracer.trace(clone, _defaults(module))
        except _Question as question:
            answers.append(_answer(clone, tracer.graph, question.node, inputs))
        except Exception:  # tracing runs the network's own Python: it may raise anything
            return None
        else:
            left = {n: value for n, value in vars(clone).items() if n not in vars(module)}
            constants = {n: value for n, value in left.items() if isinstance(value, Tensor)}
            return Trace(_tidied(graph), constants)
    return None


def _answer(module: nn.Module, graph: fx.Graph, node: fx.Node, inputs: Tensor) -> bool:
    """Run the graph as far as it was traced, and look."""
    graph.output(node)
    values = [inputs.clone(), *_defaults(module).values()]
    return bool(fx.Interpreter(module, graph=graph).run(*values))


def shallow_copy(module: nn.Module) -> nn.Module:
    """Copy one module and share all that it holds: tensors, submodules, settings."""
    clone = copy.copy(module)
    for registry in ("_modules", "_parameters", "_buffers"):
        clone.__dict__[registry] = dict(module.__dict__[registry])
    return clone


def _defaults(module: nn.Module) -> dict[str, Any]:
    """Defaults of all arguments of forward but the first: the calls that we make."""
    parameters = list(inspect.signature(module.forward).parameters.values())[1:]
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _tidied(graph: fx.Graph) -> fx.Graph:
    """Drop assertions, dead code, and arguments that nobody reads."""
    for node in reversed(list(graph.nodes)):
        if "_assert" in getattr(node.target, "__name__", "") and not node.users:
            graph.erase_node(node)
    _without_idle_queries(graph)
    for node in [n for n in graph.nodes if n.op == "placeholder"][1:]:
        if not node.users:
            graph.erase_node(node)
    return graph


def _without_idle_queries(graph: fx.Graph) -> None:
    """Drop questions about sizes that nobody reads any more.

    Nothing else is dropped: an operation whose result is not read may work in place.
    """
    for node in reversed(list(graph.nodes)):
        is_query = node.target in (getattr, *_ARITHMETIC, *_SIZES)
        if not node.users and (is_query or node.op == "get_attr"):
            graph.erase_node(node)


def _ancestors(name: str | None) -> frozenset[str]:
    """Names of all modules around `name`, without the root and itself."""
    pieces = name.split(".") if name else []
    return frozenset(itertools.accumulate(pieces[:-1], "{}.{}".format))


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
    return any(_is_row_of_blocks(candidate) for candidate in (module, *lists))


def _is_row_of_blocks(module: nn.Module) -> bool:
    blocks = list(module.children())
    is_even = len(blocks) > 1 and len({type(block) for block in blocks}) == 1
    return is_even and all(_is_block(block) for block in blocks)


def _is_block(module: nn.Module) -> bool:
    has_weights = next(module.parameters(), None) is not None
    return has_weights and next(module.children(), None) is not None


class Recorder(fx.Interpreter):
    """Runs a graph and notes the outline of every value."""

    def __init__(self, module: nn.Module, graph: fx.Graph) -> None:
        super().__init__(module, graph=graph)
        self.outlines: dict[fx.Node, Outline] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node and note what it gave."""
        result = super().run_node(n)
        is_input = n.op == "placeholder" and isinstance(result, Tensor)  # of whole numbers, maybe
        self.outlines[n] = tuple(result.shape) if is_input else _outline(result)
        return result


def _outline(value: Any) -> Outline:
    if isinstance(value, Tensor):
        return tuple(value.shape) if value.is_floating_point() else "other tensor"
    return value if type(value) in (int, float) else None


def settle_sizes(graph: fx.Graph, two: Recorder, three: Recorder) -> None:
    """Take numbers out of the flow, so that only tensors cross from part to part.

    `two` and `three` ran the graph on 2 and 3 examples. A number that was equal in both is
    written in as it is (the input size is fixed); one that was the batch size is asked
    again from the tensor at hand.
    """
    for node in list(graph.nodes):
        small, large = two.outlines.get(node), three.outlines.get(node)
        if not isinstance(small, (int, float)) or node.op in ("placeholder", "output"):
            continue
        for user in list(node.users):
            if small == large:
                user.args, user.kwargs = fx.map_arg((user.args, user.kwargs), _swap(node, small))
            elif (small, large) == (2, 3):
                _ask_again(graph, node, user, two)
    _without_idle_queries(graph)


def _swap(old: fx.Node, new: Any) -> Any:
    return lambda argument: new if argument is old else argument


def _ask_again(graph: fx.Graph, size: fx.Node, user: fx.Node, two: Recorder) -> None:
    tensors = [n for n in user.all_input_nodes if isinstance(two.outlines.get(n), tuple)]
    source = next((n for n in tensors if _shape(two, n)[:1] == (2,)), None)
    if source is None or source in size.all_input_nodes:
        return
    with graph.inserting_before(user):
        fresh = graph.call_method("size", (source, 0))
    user.args, user.kwargs = fx.map_arg((user.args, user.kwargs), _swap(size, fresh))
    two.outlines[fresh] = 2


def _shape(recorder: Recorder, node: fx.Node) -> tuple[int, ...]:
    outline = recorder.outlines.get(node)
    return outline if isinstance(outline, tuple) else ()


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients inside; every module's own mode is put back after."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for child, mode in modes:
            child.training = mode
