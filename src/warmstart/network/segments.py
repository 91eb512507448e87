"""A coarse graph → an ordered list of segments, each from one tensor to the next.

A segment ends where exactly one tensor is alive. Those without weights join a neighbour; the
operations between the last weights and the classifier are the neck.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn

from warmstart.errors import ModelError, first_line
from warmstart.modalities.registry import modality_of
from warmstart.records.inputs import Inputs

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
    """Whether a module, or a list directly inside it, holds two or more blocks of one class."""
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


Run = Callable[[Any, Tensor], Tensor]  # (the whole network, state) -> next state

FAULTS = (RuntimeError, TypeError, ValueError, IndexError, AttributeError)  # of a foreign forward
# Other owners of tensors in a plan: no block takes these names.
_RESERVED = ("output", "neck", "head", "unused", "added", "base")
_PRODUCTS = ("linear", "conv1d", "conv2d", "conv3d", "matmul", "mm", "bmm", "einsum", "bilinear")


@dataclass(frozen=True, slots=True)
class SegmentStep:
    """A pure function from one tensor to the next, read from the graph of a network.

    It looks its submodules up at each call, so that a moved, copied or retrained network needs
    no second partition.
    """

    name: str
    run: Run
    modules: tuple[str, ...]  # dotted names of the submodules called
    attributes: tuple[str, ...]  # dotted names of the tensors read directly


@dataclass(frozen=True, slots=True)
class SegmentSteps:
    """A network as steps: blocks, neck, then classifier (a submodule's name) and finish."""

    blocks: tuple[SegmentStep, ...]
    neck: SegmentStep
    classifier: str | None
    finish: SegmentStep


@dataclass(slots=True)
class _Segment:
    nodes: list[fx.Node]  # in order; the last live value is `out`
    out: fx.Node


Outlines = dict[fx.Node, Outline]


def segment(
    module: nn.Module, graph: fx.Graph, outlines: Outlines, classifier: str | None
) -> SegmentSteps | None:
    """Cut a graph into steps; None if it does not map one tensor to one tensor.

    `outlines` are those of a batch of 2.
    """
    source = next(iter(graph.nodes))
    result = next(n for n in graph.nodes if n.op == "output").args[0]
    if not isinstance(result, fx.Node) or not isinstance(outlines.get(source), tuple):
        return None
    dependent = {source}
    for node in graph.nodes:
        if node.op != "output" and any(n in dependent for n in node.all_input_nodes):
            dependent.add(node)
    flow = [n for n in graph.nodes if n in dependent and n is not source]
    head = _classifier_node(flow, classifier, outlines)
    end = cast(fx.Node, head.args[0]) if head else result
    body = flow[: flow.index(head)] if head else flow
    segments = list(_segments(body, source, outlines))
    if not segments or segments[-1].out is not end:
        return None if head is None else segment(module, graph, outlines, None)
    groups, neck = _grouped(module, segments, source, outlines)
    sources = [source, *(g.out for g in groups)]
    *blocks, flat = (
        _step(module, flow, group, before)
        for group, before in zip([*groups, neck], sources, strict=True)
    )
    after = _Segment(flow[flow.index(head) + 1 :] if head else [], result)
    return SegmentSteps(
        blocks=_unique_names(blocks),
        neck=replace(flat, name="neck", run=lambda network, x: flat.run(network, x).flatten(1)),
        classifier=classifier if head else None,
        finish=_step(module, flow, after, head or result),
    )


def _classifier_node(
    flow: Sequence[fx.Node], name: str | None, outlines: Outlines
) -> fx.Node | None:
    """The only call of the classifier, if it gets one vector per example."""
    calls = [n for n in flow if n.op == "call_module" and n.target == name]
    if len(calls) != 1 or len(calls[0].args) != 1 or not isinstance(calls[0].args[0], fx.Node):
        return None
    shape = outlines.get(calls[0].args[0])
    is_vector = isinstance(shape, tuple) and len(shape) >= 2 and set(shape[2:]) <= {1}
    return calls[0] if is_vector else None


def _segments(body: Sequence[fx.Node], source: fx.Node, outlines: Outlines) -> Iterator[_Segment]:
    members = set(body)
    last_use = {n: i for i, node in enumerate(body) for n in node.all_input_nodes}
    alive, nodes = {source}, []
    for i, node in enumerate(body):
        nodes.append(node)
        alive.add(node)
        # A value read only beyond the body (by the classifier) stays alive to its end.
        alive = {n for n in alive if last_use.get(n, -1) > i or not members.issuperset(n.users)}
        out = next(iter(alive)) if len(alive) == 1 else source
        if out is not source and isinstance(outlines.get(out), tuple):
            yield _Segment(nodes, out)
            nodes = []


def _grouped(
    module: nn.Module, segments: Sequence[_Segment], source: fx.Node, outlines: Outlines
) -> tuple[list[_Segment], _Segment]:
    groups: list[_Segment] = []
    waiting: list[_Segment] = []  # weightless segments that belong to the next block
    old = _positions(outlines, source)
    for current in segments:
        new = _positions(outlines, current.out)
        is_pooled = any(n > 1 for n in old) and all(n == 1 for n in new)
        if _has_weights(module, current):
            groups.append(_joined([*waiting, current]))
            waiting = []
        elif waiting or not groups or is_pooled:
            waiting.append(current)
        else:
            groups[-1] = _joined([groups[-1], current])
        old = new
    if not groups:  # no weights before the classifier: the first operations are the only block
        return [_joined(waiting)], _Segment([], waiting[-1].out)
    return groups, _joined([_Segment([], groups[-1].out), *waiting])


def _positions(outlines: Outlines, node: fx.Node) -> tuple[int, ...]:
    outline = outlines.get(node)
    return outline[2:] if isinstance(outline, tuple) else ()


def _joined(segments: Sequence[_Segment]) -> _Segment:
    return _Segment([n for s in segments for n in s.nodes], segments[-1].out)


def _has_weights(module: nn.Module, current: _Segment) -> bool:
    for node in current.nodes:
        if node.op == "call_module":
            has_weights = is_weighty(module.get_submodule(str(node.target)))
        else:  # `F.conv2d(x, self.kernel)` and the like, called in forward itself
            name = getattr(node.target, "__name__", node.target)
            reads = any(n.op == "get_attr" for n in node.all_input_nodes)
            has_weights = reads and name in _PRODUCTS
        if has_weights:
            return True
    return False


def is_weighty(module: nn.Module) -> bool:
    """Whether a module holds kernels or matrices, not only scales and shifts."""
    owners = [m for m in module.modules() if "Norm" not in type(m).__name__]
    return any(p.ndim > 1 for owner in owners for p in owner.parameters(recurse=False))


def _unique_names(steps: Sequence[SegmentStep]) -> tuple[SegmentStep, ...]:
    """Call a second block of one module `name#2`; reserved names count as the first."""
    counts = dict.fromkeys(_RESERVED, 1)
    named = []
    for step in steps:
        counts[step.name] = count = counts.get(step.name, 0) + 1
        named.append(step if count == 1 else replace(step, name=f"{step.name}#{count}"))
    return tuple(named)


def _step(
    module: nn.Module, flow: Sequence[fx.Node], block: _Segment, source: fx.Node
) -> SegmentStep:
    """The function from `source` to the segment's last value; `flow` depends on the input."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {source: graph.placeholder("main")}

    def copy(node: fx.Node) -> None:
        for argument in node.all_input_nodes:
            # Values independent of the input (a position table, say) are made where used.
            if argument not in copies and argument not in flow:
                copy(argument)
        copies[node] = graph.node_copy(node, copies.__getitem__)

    for node in block.nodes:
        copy(node)
    graph.output(copies[block.out])
    called = [str(n.target) for n in graph.nodes if n.op == "call_module"]
    read = [str(n.target) for n in graph.nodes if n.op == "get_attr"]
    weighty = [name for name in called if is_weighty(module.get_submodule(name))]
    run: Any = type(fx.GraphModule(module, graph)).forward
    # Named after the innermost module that holds all those with weights.
    levels = zip(*(name.split(".") for name in weighty), strict=False)
    common = itertools.takewhile(lambda level: len(set(level)) == 1, levels)
    name = ".".join(level[0] for level in common)
    name = name or (weighty or called or read or ["input"])[0]
    return SegmentStep(name, run, tuple(dict.fromkeys(called)), tuple(dict.fromkeys(read)))


# ---- Without a trace: probe inputs, the classifier found with hooks, a network in one piece.


def probe(inputs: Inputs, n: int = 3) -> Tensor:
    """Examples of noise, (n, …) as the network takes them, the same on every call.

    Whole numbers within the data's range where it holds such, and no padding.
    """
    modality, generator = modality_of(inputs), torch.Generator().manual_seed(0)
    shape, span = (n, *modality.network_shape(inputs)), modality.integers(inputs)
    if span is None:
        return torch.randn(shape, generator=generator)
    numbers = torch.randint(span[0], span[1] + 1, shape, generator=generator)
    if modality.is_ragged:
        return numbers.where(numbers != inputs.blank, (inputs.blank + 1) % (span[1] + 1))
    return numbers.to(getattr(torch, inputs.dtype))


def find_classifier(module: nn.Module, inputs: Tensor) -> tuple[Tensor, str | None]:
    """Run a network once; return its outputs (B, …) and the name of its classifier.

    The classifier is the last module with parameters that was called, if it is a Linear or
    1×1 convolution that got one vector per example.
    Raises: ModelError if the network does not take such inputs, or returns no tensor.
    """
    calls: list[tuple[nn.Module, tuple[Any, ...]]] = []
    with ExitStack() as hooks:
        for child in module.modules():
            if next(child.parameters(recurse=False), None) is not None:
                hook = child.register_forward_pre_hook(lambda *call: calls.append(call))
                hooks.enter_context(hook)
        try:
            outputs = as_tensor(module(inputs.clone()))  # a network may work in place
        except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
            raise ModelError(
                f"{type(module).__name__} cannot take inputs of shape {tuple(inputs.shape[1:])} "
                f"({first_line(error)}); pass the right preprocessing."
            ) from error
    if outputs.ndim < 2 or len(outputs) != len(inputs) or not outputs.is_floating_point():
        raise ModelError(
            f"{type(module).__name__} returns {tuple(outputs.shape)} for {len(inputs)} inputs; "
            "a base model returns one row of numbers for each."
        )
    layer, args = calls[-1] if calls else (module, ())
    if layer is module or len(args) != 1 or not isinstance(args[0], Tensor):
        return outputs, None
    shape = args[0].shape
    name = next(name for name, child in module.named_modules() if child is layer)
    is_pointwise = isinstance(layer, nn.Conv2d) and set(layer.kernel_size) == {1}
    is_pooled = len(shape) == 4 and set(shape[2:]) == {1}
    is_linear = isinstance(layer, nn.Linear) and len(shape) == 2
    return outputs, name if is_linear or (is_pointwise and is_pooled) else None


def as_tensor(output: Any) -> Tensor:
    """The logits in a network's return value: a tensor, a tuple, a dict, or an object.

    Raises: ModelError if there is none.
    """
    if isinstance(output, Tensor):
        return output
    is_mapping = isinstance(output, Mapping)
    values = [output.get(n) if is_mapping else getattr(output, n, None) for n in ("logits", "out")]
    if is_mapping or isinstance(output, (tuple, list)):
        values += output.values() if is_mapping else output
    for value in values:
        if isinstance(value, Tensor):
            return value
    raise ModelError(
        f"the network returns a {type(output).__name__} without logits; "
        "wrap it in a module that returns one tensor."
    )


def whole_network_steps(classifier: str | None) -> SegmentSteps:
    """Steps of a network that stays in one piece; run them on it without its classifier."""
    identity = SegmentStep("neck", lambda network, x: x, (), ())
    block = SegmentStep("whole", lambda network, x: as_tensor(network(x)).flatten(1), ("",), ())
    return SegmentSteps((block,), identity, classifier, identity)


def is_same(actual: Tensor, expected: Tensor) -> bool:
    """Whether two results agree to float32 rounding, relative to the largest value."""
    if actual.shape != expected.shape:
        return False
    scale = float(expected.abs().nan_to_num().amax()) if expected.numel() else 0.0
    return torch.allclose(actual, expected, rtol=1e-5, atol=1e-6 * max(1.0, scale), equal_nan=True)
