"""The grammar of --strategy, and the depth behind each word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal

from warmstart.errors import PlanError
from warmstart.planning import rules
from warmstart.records.block_actions import ACTIONS
from warmstart.records.plan import Action, Plan
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


HEAD = Strategy(depth="last")
AUTO = Strategy(depth="auto")


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


def word(strategy: Strategy) -> str:
    """The canonical text of a strategy; `parse(word(s)) == s`.

    >>> word(parse("last:0")), word(parse("frozen:0")), word(parse("lora+add"))
    ('head', 'full', 'full+add+lora')
    """
    plain = {pair: name for name, pair in _PLAIN.items()}
    pair = (strategy.depth, strategy.count)
    first = plain.get(pair) or f"{strategy.depth}:{strategy.count}"
    return "+".join([first, *(extra for extra in EXTRAS if extra in strategy.extras)])


def word_of(actions: Sequence[Action]) -> Strategy | None:
    """The strategy, gradual ones apart, that gives blocks these actions; None if none does.

    >>> word(word_of(["frozen", "tuned", "added", "replaced"]))
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
        cure = f"use {word(most)} or {other}" if n_blocks > 1 else "use full or head"
        raise _error(word(strategy), f"{has}; {cure}.")
    count = n_blocks - strategy.count if strategy.depth == "frozen" else strategy.count
    if strategy.depth == "scratch":
        count = n_blocks
    if not count and strategy.extras & TUNING:
        raise _error(word(strategy), f"{has}, and all are frozen; use {_deeper(strategy.extras)}.")
    if count == 1 and "gradual" in strategy.extras:
        cure = f"use {_deeper(strategy.extras)}" if n_blocks > 1 else "leave out +gradual"
        raise _error(word(strategy), f"{has}; gradual {_TWO}; {cure}.")
    return count


def resolve(strategy: Strategy, verdict: VerdictKind | None, n_blocks: int) -> Strategy:
    """The strategy with a depth: the user's, or the one that the verdict calls for.

    `fine-tune`, lora and gradual train the upper half; else only the head is trained. `frozen:P`
    becomes `head`. Raises: PlanError as `n_tuned` does.

    >>> word(resolve(AUTO, "fine-tune", 18)), word(resolve(parse("auto+add"), None, 18))
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
    return f"{word(few)} or {word(replace(few, depth='frozen', count=0))}"


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
