"""How deep a run learns: the grammar of --strategy, and the depth behind each word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal

from warmstart.errors import PlanError
from warmstart.planning import rules
from warmstart.records.plan import Action, Plan
from warmstart.records.summary import VerdictKind

Depth = Literal["auto", "last", "frozen", "scratch"]
EXTRAS = ("add", "lora", "gradual")
GRAMMAR = "auto, head, last:N, frozen:K, full or scratch, then +add, +lora or +gradual"
TUNING = frozenset({"lora", "gradual"})  # extras that say how layers are tuned

_PLAIN: dict[str, tuple[Depth, int]] = {
    "auto": ("auto", 0),
    "head": ("last", 0),
    "full": ("frozen", 0),
    "scratch": ("scratch", 0),
}
_COUNTED: dict[str, Depth] = {"last": "last", "frozen": "frozen"}
_MEANT = {"last": "last:2 tunes the last two", "frozen": "frozen:2 freezes the first two"}
_TWO = "needs at least two tuned layers, which join one after the other"
# What the same thing is called elsewhere.
_HABITS = {
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
    """A depth and what is done beside it.

    `count` is N of `last:N`, K of `frozen:K`, 0 for the others; parts are numbered from the
    input, the head apart.
    """

    depth: Depth
    count: int = 0
    extras: frozenset[str] = frozenset()


HEAD = Strategy(depth="last")
AUTO = Strategy(depth="auto")


def parse(text: str) -> Strategy:
    """Read what was given to --strategy. A bare extra stands for its usual depth.

    Raises: PlanError that names the word and what to write instead.

    >>> parse("last:2+gradual").count, parse("add") == parse("head+add")
    (2, True)
    """
    words = [word.strip() for word in text.strip().lower().split("+")]
    if words == [""]:
        raise PlanError(f"--strategy needs a value: {GRAMMAR}.")
    if "" in words:
        raise _wrong(text, "a word is missing beside a +; write for instance head+add.")
    if words[0] in EXTRAS:
        words = ["full" if TUNING.intersection(words) else "head", *words]
        for later in filter(_is_depth, words[1:]):
            right = "+".join([later, *(w for w in words[1:] if w != later)])
            raise _wrong(text, f"the depth comes first; write {right}.")
    depth, count = _depth(words[0], text)
    extras = _extras(words, text)
    if "gradual" in extras and (depth, count) == ("last", 1):
        raise _wrong(text, f"gradual {_TWO}; write {_deeper(extras)}.")
    return Strategy(depth=depth, count=count, extras=extras)


def strategy_of(plan: Plan) -> Strategy:
    """The strategy that a plan names. Raises: PlanError if that is none, or is not settled."""
    value = plan.strategy.value
    try:
        found = parse(str(value))
    except PlanError as error:
        why = str(error).removeprefix(f"--strategy {value}: ")
        raise PlanError(f"the plan has strategy {value!r}: {why}") from None
    if found.depth == "auto":
        raise PlanError(f"the plan has strategy {value!r}, which settles nothing; name a depth.")
    return found


def word(strategy: Strategy) -> str:
    """The one text of a strategy; `parse(word(s)) == s`.

    >>> word(parse("last:0")), word(parse("frozen:0")), word(parse("lora+add"))
    ('head', 'full', 'full+add+lora')
    """
    plain = {pair: name for name, pair in _PLAIN.items()}
    pair = (strategy.depth, strategy.count)
    first = plain.get(pair) or f"{strategy.depth}:{strategy.count}"
    return "+".join([first, *(extra for extra in EXTRAS if extra in strategy.extras)])


def word_of(actions: Sequence[Action]) -> Strategy | None:
    """The strategy that gives parts these actions, the output's included; None where none does.

    Whether parts join gradually cannot be seen from them.

    >>> word(word_of(["frozen", "tuned", "added", "replaced"]))
    'last:1+add'
    >>> word_of(["tuned", "frozen", "replaced"]) is None
    True
    """
    body = [action for action in actions if action not in ("added", "replaced")]
    moving = [action for action in body if action != "frozen"]
    extras = {"add"} if "added" in actions else set()
    if moving and set(body) == {"fresh"} and not extras:
        return Strategy(depth="scratch")
    if body[len(body) - len(moving) :] != moving or len(set(moving)) > 1 or "fresh" in moving:
        return None
    if "low-rank" in moving:
        extras.add("lora")
    if len(moving) == len(body):
        return Strategy(depth="frozen", extras=frozenset(extras))
    return Strategy(depth="last", count=len(moving), extras=frozenset(extras))


def n_tuned(strategy: Strategy, n_blocks: int, network: str = "the network") -> int:
    """How many of the uppermost parts are tuned, or made anew. `network` is its name in errors.

    Raises: PlanError where the network has fewer parts than are named, or where nothing is
    left to tune; ValueError for `auto`, which `resolve` turns into a depth.

    >>> n_tuned(parse("last:2"), 18), n_tuned(parse("frozen:5"), 18), n_tuned(parse("full"), 18)
    (2, 13, 18)
    """
    if strategy.depth == "auto":
        raise ValueError("auto is no depth; resolve the strategy first")
    has = f"{network} has {n_blocks} part{'s' if n_blocks > 1 else ''}, the head apart"
    if strategy.count > n_blocks:
        most = replace(strategy, count=n_blocks)
        other = "full" if strategy.depth == "last" else "head"
        cure = f"use {word(most)} or {other}" if n_blocks > 1 else "use full or head"
        raise _wrong(word(strategy), f"{has}; {cure}.")
    count = n_blocks - strategy.count if strategy.depth == "frozen" else strategy.count
    if strategy.depth == "scratch":
        count = n_blocks
    if not count and strategy.extras & TUNING:
        raise _wrong(word(strategy), f"{has}, and all are frozen; use {_deeper(strategy.extras)}.")
    if count == 1 and "gradual" in strategy.extras:
        cure = f"use {_deeper(strategy.extras)}" if n_blocks > 1 else "leave +gradual away"
        raise _wrong(word(strategy), f"{has}; gradual {_TWO}; {cure}.")
    return count


def resolve(strategy: Strategy, verdict: VerdictKind | None, n_blocks: int) -> Strategy:
    """The strategy with its depth settled: what was typed, or what the verdict asks for.

    `deeper` tunes the upper half; so does a wish for lora or gradual, which need parts to
    tune. Else the output alone is learnt. `frozen:P` comes back as `head`.
    Raises: PlanError as `n_tuned` does.

    >>> word(resolve(AUTO, "fine-tune", 18)), word(resolve(parse("auto+add"), None, 18))
    ('last:9', 'head+add')
    """
    if strategy.depth == "auto":
        is_deep = verdict == "fine-tune" or bool(strategy.extras & TUNING)
        count = rules.fine_tuned_blocks(n_blocks) if is_deep else 0
        if "gradual" in strategy.extras:
            count = min(max(count, 2), n_blocks)
        found = Strategy(depth="last", count=count, extras=strategy.extras)
        n_tuned(found, n_blocks)
        return found
    return strategy if n_tuned(strategy, n_blocks) else replace(HEAD, extras=strategy.extras)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The most similar known word, or None if none is alike enough.

    >>> nearest("gradul", EXTRAS)
    'gradual'
    """
    found = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def _is_depth(word: str) -> bool:
    return word.partition(":")[0] in (*_PLAIN, *_COUNTED)


def _depth(word: str, text: str) -> tuple[Depth, int]:
    """The depth that the first word names."""
    name, colon, number = word.partition(":")
    if name in _PLAIN and not colon:
        return _PLAIN[name]
    if name in _PLAIN:
        raise _wrong(text, f"{name} takes no number; last:N and frozen:K do.")
    if name not in _COUNTED:
        raise _unknown(word, text)
    if not number:
        raise _wrong(text, f"it needs a number of parts; {_MEANT[name]}.")
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise _wrong(text, f"{number} is not a whole number, 0 or more; {_MEANT[name]}.")
    return _COUNTED[name], int(number)


def _extras(words: list[str], text: str) -> frozenset[str]:
    """The extras after the first word, and whether they can go together."""
    for extra in words[1:]:
        if _is_depth(extra):
            raise _wrong(text, f"{words[0]} and {extra} are two depths; keep one of them.")
        if extra not in EXTRAS:
            raise _unknown(extra, text)
        if words[1:].count(extra) > 1:
            raise _wrong(text, f"{extra} stands twice; once is enough.")
    extras = frozenset(words[1:])
    if extras >= TUNING:
        raise _wrong(text, "lora and gradual do not go together; keep one of them.")
    if words[0] == "scratch" and extras:
        new = sorted(extras, key=EXTRAS.index)[0]
        raise _wrong(text, f"every layer is new already, {new} has no use; write scratch.")
    if words[0] in ("head", "last:0") and extras & TUNING:
        raise _wrong(text, f"head leaves no layer to tune; write {_deeper(extras)}.")
    return extras


def _deeper(extras: frozenset[str]) -> str:
    few = Strategy(depth="last", count=2, extras=extras)
    return f"{word(few)} or {word(replace(few, depth='frozen', count=0))}"


def _unknown(word: str, text: str) -> PlanError:
    name = word.partition(":")[0]
    counted = name.rstrip("0123456789").rstrip("-=_ ")
    number = name[len(counted) :].lstrip("-=_ ")
    if counted in _COUNTED and number:
        like: str | None = f"{counted}:{number}"
    elif name in EXTRAS:
        rank = "; its rank is set by --set training.lora_rank=8" if name == "lora" else ""
        return _wrong(text, f"{name} takes no number{rank}; last:N and frozen:K do.")
    else:
        like = _HABITS.get(name) or nearest(name, (*_PLAIN, *_COUNTED, *EXTRAS))
    shown = f"{like}:N" if like == "last" else f"{like}:K" if like == "frozen" else like
    cure = f"did you mean {shown}?" if like else f"it takes {GRAMMAR}."
    return _wrong(text, f"{word} is not a word of it; {cure}")


def _wrong(text: str, why: str) -> PlanError:
    return PlanError(f"--strategy {text}: {why}")
