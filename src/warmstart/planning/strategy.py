"""The grammar of --strategy, and the depth behind each word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Literal

from warmstart.errors import PlanError
from warmstart.planning import rules
from warmstart.planning.facts import Machine, NetworkFacts
from warmstart.planning.rules import Budget, LearningRateSpread, block_lrs
from warmstart.records.block_actions import (
    ACTIONS,
    ADDED,
    FRESH,
    FROZEN,
    REPLACED,
    TUNED,
    Action,
    BlockAction,
    train_network,
)
from warmstart.records.plan import BlockPlan, Choice, Plan, by_rule
from warmstart.records.summary import VerdictKind

Depth = Literal["auto", "last", "frozen", "scratch"]
EXTRAS = ("add", "lora", "gradual")
GRAMMAR = "auto, head, last:N, frozen:K, full or scratch, then +add, +lora or +gradual"
TUNING = frozenset({"lora", "gradual"})  # extras that say how blocks are fine-tuned

_PLAIN: dict[str, tuple[Depth, int]] = {
    "auto": ("auto", 0),
    "head": ("last", 0),
    "full": ("frozen", 0),
    "scratch": ("scratch", 0),
}
_COUNTED: dict[str, Depth] = {"last": "last", "frozen": "frozen"}
_EXAMPLES = {"last": "last:2 fine-tunes the last two", "frozen": "frozen:2 freezes the first two"}
_TWO = "needs at least two fine-tuned blocks, which are unfrozen one after the other"
# Words of other tools.
_SYNONYMS = {
    "linear": "head",
    "probe": "head",
    "linear-probe": "head",
    "none": "head",
    "all": "full",
    "finetune": "full",
    "fine-tune": "full",
    "peft": "lora",
    "freeze": "frozen:K",
    "unfreeze": "gradual",
    "adapter": "add",
    "random": "scratch",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """A depth and extras; `count` is N of `last:N`, K of `frozen:K`, else 0."""

    depth: Depth
    count: int = 0
    extras: frozenset[str] = frozenset()

    def __str__(self) -> str:
        """Its canonical text, which `parse` reads.

        >>> print(parse("last:0"), parse("frozen:0"), parse("lora+add"))
        head full full+add+lora
        """
        plain = {pair: name for name, pair in _PLAIN.items()}
        first = plain.get((self.depth, self.count)) or f"{self.depth}:{self.count}"
        return "+".join([first, *(extra for extra in EXTRAS if extra in self.extras)])


HEAD = Strategy(depth="last")
AUTO = Strategy(depth="auto")


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanOptions:
    """The user's options, which override every rule; `explicit` names those that were typed."""

    base: str
    strategy: Strategy
    budget: Budget
    seed: int
    arch: str | None = None
    lr: float | None = None
    contrastive: bool | None = None  # --set training.contrastive
    processes: int = 1
    machine: Machine = field(default_factory=Machine)
    explicit: frozenset[str] = frozenset()


def parse(text: str) -> Strategy:
    """Read a value of --strategy; a bare extra has its default depth.

    Raises: PlanError that names the word and what to write instead.

    >>> parse("last:2+gradual").count, parse("add") == parse("head+add")
    (2, True)
    """
    words = [word.strip() for word in text.strip().lower().split("+")]
    if words == [""]:
        raise PlanError(f"--strategy needs a value: {GRAMMAR}.")
    if "" in words:
        raise _error(text, "a word is missing beside a +; write for instance head+add.")
    if words[0] in EXTRAS:
        words = ["full" if TUNING.intersection(words) else "head", *words]
        for later in filter(_is_depth, words[1:]):
            right = "+".join([later, *(w for w in words[1:] if w != later)])
            raise _error(text, f"the depth comes first; write {right}.")
    depth, count = _parse_depth(words[0], text)
    extras = _parse_extras(words, text)
    if "gradual" in extras and (depth, count) == ("last", 1):
        raise _error(text, f"gradual {_TWO}; write {_deeper(extras)}.")
    return Strategy(depth=depth, count=count, extras=extras)


def strategy_of(plan: Plan) -> Strategy:
    """The strategy of a plan. Raises: PlanError if that is invalid, or auto."""
    value = plan.strategy.value
    try:
        strategy = parse(str(value))
    except PlanError as error:
        why = str(error).removeprefix(f"--strategy {value}: ")
        raise PlanError(f"the plan has strategy {value!r}: {why}") from None
    if strategy.depth == "auto":
        raise PlanError(f"the plan has strategy {value!r}, which is not resolved; name a depth.")
    return strategy


def word_of(actions: Sequence[Action]) -> Strategy | None:
    """The strategy, gradual ones apart, that gives blocks these actions; None if none does.

    >>> str(word_of(["frozen", "tuned", "added", "replaced"]))
    'last:1+add'
    >>> word_of(["tuned", "frozen", "replaced"]) is None
    True
    """
    each = [ACTIONS[action] for action in actions]
    body = [action for action in each if action.place == "block"]
    moving = [action for action in body if action.is_trained]
    extras = {"add"} if any(action.place == "above" for action in each) else set()
    if moving and all(action.is_random for action in body) and not extras:
        return Strategy(depth="scratch")
    is_mixed = len(set(moving)) > 1 or not all(action.because for action in moving)
    if body[len(body) - len(moving) :] != moving or is_mixed:
        return None
    extras |= {action.extra for action in moving if action.extra}
    if len(moving) == len(body):
        return Strategy(depth="frozen", extras=frozenset(extras))
    return Strategy(depth="last", count=len(moving), extras=frozenset(extras))


def n_tuned(strategy: Strategy, n_blocks: int, network: str = "the network") -> int:
    """How many of the uppermost blocks are trained; `network` is its name in errors.

    Raises: PlanError where the network has too few blocks, or none is left to train; ValueError
    for `auto`, which `resolve` turns into a depth.

    >>> n_tuned(parse("last:2"), 18), n_tuned(parse("frozen:5"), 18), n_tuned(parse("full"), 18)
    (2, 13, 18)
    """
    if strategy.depth == "auto":
        raise ValueError("auto is no depth; resolve the strategy first")
    has = f"{network} has {n_blocks} block{'s' if n_blocks > 1 else ''}, the head excluded"
    if strategy.count > n_blocks:
        most = replace(strategy, count=n_blocks)
        other = "full" if strategy.depth == "last" else "head"
        cure = f"use {most} or {other}" if n_blocks > 1 else "use full or head"
        raise _error(str(strategy), f"{has}; {cure}.")
    count = n_blocks - strategy.count if strategy.depth == "frozen" else strategy.count
    if strategy.depth == "scratch":
        count = n_blocks
    if not count and strategy.extras & TUNING:
        raise _error(str(strategy), f"{has}, and all are frozen; use {_deeper(strategy.extras)}.")
    if count == 1 and "gradual" in strategy.extras:
        cure = f"use {_deeper(strategy.extras)}" if n_blocks > 1 else "leave out +gradual"
        raise _error(str(strategy), f"{has}; gradual {_TWO}; {cure}.")
    return count


def resolve(strategy: Strategy, verdict: VerdictKind | None, n_blocks: int) -> Strategy:
    """The strategy with a depth: the user's, or the one that the verdict calls for.

    `fine-tune`, lora and gradual train the upper half; else only the head is trained. `frozen:P`
    becomes `head`. Raises: PlanError as `n_tuned` does.

    >>> str(resolve(AUTO, "fine-tune", 18)), str(resolve(parse("auto+add"), None, 18))
    ('last:9', 'head+add')
    """
    if strategy.depth == "auto":
        is_deep = verdict == "fine-tune" or bool(strategy.extras & TUNING)
        count = rules.fine_tuned_blocks(n_blocks) if is_deep else 0
        if "gradual" in strategy.extras:
            count = min(max(count, 2), n_blocks)
        resolved = Strategy(depth="last", count=count, extras=strategy.extras)
        n_tuned(resolved, n_blocks)
        return resolved
    return strategy if n_tuned(strategy, n_blocks) else replace(HEAD, extras=strategy.extras)


def nearest(word: str, words: Iterable[str]) -> str | None:
    """The most similar of some words, or None if none is similar enough.

    >>> nearest("gradul", EXTRAS)
    'gradual'
    """
    matches = get_close_matches(word, list(words), n=1, cutoff=0.6)
    return matches[0] if matches else None


def _is_depth(word: str) -> bool:
    return word.partition(":")[0] in (*_PLAIN, *_COUNTED)


def _parse_depth(word: str, text: str) -> tuple[Depth, int]:
    name, colon, number = word.partition(":")
    if name in _PLAIN and not colon:
        return _PLAIN[name]
    if name in _PLAIN:
        raise _error(text, f"{name} takes no number; last:N and frozen:K do.")
    if name not in _COUNTED:
        raise _invalid_word(word, text)
    if not number:
        raise _error(text, f"it needs a number of blocks; {_EXAMPLES[name]}.")
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise _error(text, f"{number} is not a whole number, 0 or more; {_EXAMPLES[name]}.")
    return _COUNTED[name], int(number)


def _parse_extras(words: list[str], text: str) -> frozenset[str]:
    """The extras after the first word. Raises: PlanError where they cannot be combined."""
    for extra in words[1:]:
        if _is_depth(extra):
            raise _error(text, f"{words[0]} and {extra} are two depths; keep one of them.")
        if extra not in EXTRAS:
            raise _invalid_word(extra, text)
        if words[1:].count(extra) > 1:
            raise _error(text, f"{extra} stands twice; once is enough.")
    extras = frozenset(words[1:])
    if extras >= TUNING:
        raise _error(text, "lora and gradual cannot be combined; keep one of them.")
    if words[0] == "scratch" and extras:
        new = sorted(extras, key=EXTRAS.index)[0]
        raise _error(text, f"every layer is new already, so {new} has no use; write scratch.")
    if words[0] in ("head", "last:0") and extras & TUNING:
        raise _error(text, f"head leaves no block to fine-tune; write {_deeper(extras)}.")
    return extras


def _deeper(extras: frozenset[str]) -> str:
    few = Strategy(depth="last", count=2, extras=extras)
    return f"{few} or {replace(few, depth='frozen', count=0)}"


def _invalid_word(word: str, text: str) -> PlanError:
    name = word.partition(":")[0]
    counted = name.rstrip("0123456789").rstrip("-=_ ")
    number = name[len(counted) :].lstrip("-=_ ")
    if counted in _COUNTED and number:
        like: str | None = f"{counted}:{number}"
    elif name in EXTRAS:
        rank = "; its rank is set by --set training.lora_rank=8" if name == "lora" else ""
        return _error(text, f"{name} takes no number{rank}; last:N and frozen:K do.")
    else:
        like = _SYNONYMS.get(name) or nearest(name, (*_PLAIN, *_COUNTED, *EXTRAS))
    hint = f"{like}:N" if like == "last" else f"{like}:K" if like == "frozen" else like
    cure = f"did you mean {hint}?" if like else f"it takes {GRAMMAR}."
    return _error(text, f"{word} is not a word of it; {cure}")


def _error(text: str, why: str) -> PlanError:
    return PlanError(f"--strategy {text}: {why}")


# ---- The action of each block of the network, and why.


OUTPUT = "output"  # the name of the new head among a plan's blocks


def blocks(
    strategy: Strategy,
    network: NetworkFacts,
    spread: LearningRateSpread | None,
    rule: Strategy | None = None,
) -> tuple[BlockPlan, ...]:
    """Every block with its action and learning rate: 1..P, added layers, the head.

    `strategy` is resolved; `spread` is None where nothing is trained step by step. Whatever the
    strategy, fresh blocks of the network are randomly initialised, partly fresh ones fine-tuned,
    and those without a layer for low-rank updates frozen instead. `rule` is the rule's strategy
    where the user chose another.
    Raises: PlanError where a block would stay frozen at random values, and as `n_tuned` does.
    """
    names = [block.name for block in network.record.blocks]
    if strategy == HEAD:
        _check_no_random_block(names, network.random)
    fresh, partly_fresh = network.fresh, network.partly_fresh
    plain = body_actions(strategy, names)
    body = _freeze_no_lora(
        body_actions(strategy, names, fresh, partly_fresh), names, network.no_lora
    )
    by_rules = body_actions(rule or strategy, names, fresh, partly_fresh)
    rows: list[tuple[str, Choice]] = []
    for name, action, before, rule_action in zip(names, body, plain, by_rules, strict=True):
        is_raised = name in partly_fresh and name not in fresh and action != before
        is_users = rule is not None and name not in fresh and not is_raised
        why = _explain(ACTIONS[action], strategy, len(names))
        if name in fresh:
            why = "randomly initialised: its weights did not carry over from the base model"
        if is_raised:
            why = "holds weights that did not carry over: they are random and have to be trained"
        if not ACTIONS[action].is_trained and name in network.no_lora:
            why = "it has no linear or plain convolution layer for low-rank updates"
        rows.append(
            (name, _choose_action(action, why, strategy if is_users else None, rule_action))
        )
    if "add" in strategy.extras:
        if network.record.blocks[-1].layout in ("other", "NCL", "NCDHW"):
            raise PlanError(
                f"--strategy {strategy}: the output of block {names[-1]} has no axis of "
                "channels for added layers to work on; leave out +add."
            )
        why = "new layers before the head, initialised to change nothing"
        users = strategy if rule is not None else None
        rows.append((added_name(names), _choose_action(ADDED.name, why, users, None)))
    rows.append((OUTPUT, by_rule(REPLACED.name, "your classes; an old head is never kept")))
    actions = [str(choice.value) for _, choice in rows]
    lrs = block_lrs(actions, spread) if spread else [None] * len(rows)
    return tuple(
        BlockPlan(name=name, action=choice, lr=lr)
        for (name, choice), lr in zip(rows, lrs, strict=True)
    )


def body_actions(
    strategy: Strategy,
    names: Sequence[str],
    fresh: frozenset[str] = frozenset(),
    partly_fresh: frozenset[str] = frozenset(),
) -> list[Action]:
    """The action of each block 1..P; none keeps random values. Raises: PlanError as `n_tuned`.

    >>> body_actions(Strategy(depth="last", count=1), ["stem", "top"])
    ['frozen', 'tuned']
    """
    n_frozen = len(names) - n_tuned(strategy, len(names))
    upper = next((one for one in ACTIONS.values() if one.extra in strategy.extras), TUNED)
    if strategy.depth == "scratch":
        upper = FRESH
    actions = [FROZEN if n < n_frozen else upper for n in range(len(names))]
    for place, name in enumerate(names):
        if name in fresh:
            actions[place] = FRESH
        elif name in partly_fresh and not actions[place].is_random:
            actions[place] = TUNED
    return [action.name for action in actions]


def _freeze_no_lora(
    actions: Sequence[Action], names: Sequence[str], no_lora: frozenset[str]
) -> list[Action]:
    """Freeze low-rank blocks that updates cannot be added to. Raises: PlanError if all are."""
    has_updates = [ACTIONS[action].has_updates for action in actions]
    low = [name for name, has in zip(names, has_updates, strict=True) if has]
    if low and no_lora.issuperset(low):
        some, have = ("blocks", "have") if len(low) > 1 else ("block", "has")
        raise PlanError(
            f"--strategy with +lora: {some} {', '.join(low)} {have} no linear or plain "
            "convolution layer for low-rank updates; leave out +lora."
        )
    return [
        FROZEN.name if name in low and name in no_lora else action
        for name, action in zip(names, actions, strict=True)
    ]


def rule_strategy(
    verdict: VerdictKind | None, names: Sequence[str], random: frozenset[str]
) -> Strategy:
    """The rule's strategy: the verdict's depth, and down to the lowest block with random values.

    >>> str(rule_strategy("fine-tune", "abcdef", frozenset()))
    'last:3'
    >>> str(rule_strategy(None, "abcdef", frozenset("b")))
    'last:5'
    """
    heights = (len(names) - place for place, name in enumerate(names) if name in random)
    count = resolve(AUTO, verdict, len(names)).count
    return Strategy(depth="last", count=max(count, *heights, 0))


def added_name(names: Iterable[str]) -> str:
    """The name of added layers: "added", or a numbered name where that exists already.

    >>> added_name(["stem"]), added_name(["stem", "added", "added#2"])
    ('added', 'added#3')
    """
    existing, name, number = set(names), ADDED.name, 1
    while name in existing:
        number += 1
        name = f"{ADDED.name}#{number}"
    return name


def _check_no_random_block(names: Sequence[str], random: frozenset[str]) -> None:
    for place, name in enumerate(names):
        if name in random:
            raise PlanError(
                f"--strategy head: block {name} would be frozen at random values, because its "
                f"weights did not carry over; use --strategy last:{len(names) - place}, which "
                "trains it."
            )


def _choose_action(action: Action, why: str, users: Strategy | None, rule: Action | None) -> Choice:
    """The choice of an action; `users` is the strategy where the user chose it."""
    if users is None:
        return by_rule(action, why)
    because = f"your choice, {users}: {why}"
    return Choice(value=action, because=because, source="user", rule=rule)


def _explain(action: BlockAction, strategy: Strategy, n_blocks: int) -> str:
    count = n_tuned(strategy, n_blocks)
    if action.is_random:
        return "randomly initialised: no weights of the base model are kept"
    if not action.is_trained and not count:
        also = "the added layers and the head are" if "add" in strategy.extras else "the head is"
        return f"only {also} trained"
    last = "the last" if count == 1 else f"the last {count}"
    upper = "all blocks" if count == n_blocks else f"{last} of {n_blocks} blocks"
    if not action.is_trained:
        return f"only {upper} {'is' if count == 1 else 'are'} fine-tuned"
    if "gradual" in strategy.extras:
        return f"among {upper}, unfrozen from the top while validation improves"
    return f"among {upper}{action.because}"


_ALWAYS = ("engine", "batch_size", "seed", "offload")  # choices of feature extraction, too
_EXCEPT = ", with single blocks set otherwise"


def reconcile_strategy(plan: Plan, network: NetworkFacts) -> Plan:
    """The plan with the strategy that matches its blocks, where single blocks were set.

    Where no word describes the blocks, the word stays, and its reason says so; `check_agreement`
    refuses what cannot be trained. Raises: PlanError if the plan's strategy is invalid.
    """
    current, actions = strategy_of(plan), plan.actions
    if _gives_actions(current, plan, network) or not train_network(actions):
        return plan
    actual, old = word_of(actions), plan.strategy
    if actual is None:
        is_explained = current.depth == "scratch" or old.because.endswith(_EXCEPT)
        because = old.because if is_explained else f"{old.because}{_EXCEPT}"
        return replace(plan, strategy=replace(old, because=because))
    if "gradual" in current.extras and actions.count(TUNED.name) > 1:
        actual = replace(actual, extras=actual.extras | {"gradual"})
    rule = old.value if old.rule is None and old.source != "user" else old.rule
    because = f"what your choices for single blocks amount to; before it was {old.value}"
    choice = Choice(value=str(actual), because=because, source="user", rule=rule)
    return replace(plan, strategy=choice)


def check_agreement(plan: Plan) -> None:
    """Refuse a strategy that the blocks contradict, and training choices where nothing is trained.

    Raises: PlanError that names the strategy, or the choice, and what to write instead.
    """
    strategy = strategy_of(plan)
    body = [block for block in plan.blocks if block.behaviour.place != "head"]
    others = [block for block in body if not block.behaviour.is_random]
    n_tuned = plan.actions.count(TUNED.name)
    if not any(block.behaviour.is_trained for block in body):
        _check_untrained(plan, strategy, len(body))
    elif strategy.depth == "scratch" and others:
        raise PlanError(
            f"the plan has strategy scratch and block {others[0].name} {others[0].action.value}, "
            "and in scratch every block is fresh; write strategy full, in which each block can be "
            "set."
        )
    elif "gradual" in strategy.extras and any(block.behaviour.has_updates for block in body):
        raise PlanError(
            "the plan has low-rank blocks and strategy gradual, which cannot be combined; set "
            "those blocks to tuned."
        )
    elif "gradual" in strategy.extras and n_tuned < 2:
        raise PlanError(
            f"the plan has strategy {strategy} and {n_tuned or 'no'} tuned block; gradual "
            "needs at least two, such as last:2+gradual or full+gradual."
        )


def _check_untrained(plan: Plan, strategy: Strategy, n_blocks: int) -> None:
    """Where every block is frozen and none added, the head is fitted in closed form."""
    depth = n_blocks - strategy.count if strategy.depth == "frozen" else strategy.count
    if strategy.depth == "scratch" or depth > 0 or strategy.extras:
        raise PlanError(
            f"the plan has strategy {strategy}, and nothing is trained step by step: every "
            "block is frozen; write strategy head, or set blocks to tuned."
        )
    names = [field.name for field in fields(plan.training) if field.name not in _ALWAYS]
    unused = [f"training.{name}" for name in names if getattr(plan.training, name) is not None]
    if plan.blocks[-1].lr is not None:
        unused.insert(0, "a learning rate for block output")
    if unused:
        raise PlanError(
            f"the plan has {unused[0]}, and nothing is trained step by step: every block is "
            "frozen; remove it, or add --strategy last:1."
        )


def _gives_actions(strategy: Strategy, plan: Plan, network: NetworkFacts) -> bool:
    """Whether the strategy gives the blocks the actions that they have.

    Blocks at random values are fresh in any strategy, and those without a layer for low-rank
    updates stay frozen.
    """
    body = [block for block in plan.blocks if block.behaviour.place == "block"]
    names = [block.name for block in body]
    try:
        expected = body_actions(strategy, names, network.fresh, network.partly_fresh)
    except PlanError:  # it names more blocks than there are
        return False
    for block, action in zip(body, expected, strict=True):
        no_lora = ACTIONS[action].has_updates and block.name in network.no_lora
        if block.behaviour.name != action and (block.behaviour.is_trained or not no_lora):
            return False
    return (ADDED.name in plan.actions) == ("add" in strategy.extras)
