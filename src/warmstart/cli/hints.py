"""One line for each verb, option or key=value that is not ours: what it is called here."""

from __future__ import annotations

from collections.abc import Iterable

from warmstart import __version__
from warmstart.cli.habits import ARGUMENTS, EVERYWHERE, EXPLAINED, RENAMED, SAVED, VERB_HABITS
from warmstart.cli.spec import VERBS, Verb
from warmstart.errors import UsageError


def nearest(word: str, known: Iterable[str], likeness: float = 0.7) -> str | None:
    """The most similar known word, or None if none is alike enough.

    >>> nearest("buget", ["start", "budget"])
    'budget'
    """
    from difflib import get_close_matches

    found = get_close_matches(word.lower(), list(known), n=1, cutoff=likeness)
    return found[0] if found else None


def unknown_verb(word: str, is_path: bool) -> UsageError:
    """What to say of a first word that is no verb; `is_path` if it names something on disk.

    >>> str(unknown_verb("train", is_path=False))
    'unknown verb `train`. Here it is `fit`.'
    """
    ours = ", ".join(VERBS)
    if word.lower() in VERB_HABITS:
        return UsageError(f"unknown verb `{word}`. Here it is `{VERB_HABITS[word.lower()]}`.")
    if is_path or word.startswith("sample:"):
        return UsageError(f"`{word}` is not a verb. To learn from it: warmstart fit {word}")
    like = nearest(word, VERBS, likeness=0.6)
    if like:
        return UsageError(f"unknown verb `{word}`. Did you mean `{like}`?")
    return UsageError(f"unknown verb `{word}`. This version ({__version__}) has {ours}.")


def unknown_option(verb: Verb, typed: str) -> UsageError:
    """What to say of an option that this verb does not have.

    >>> str(unknown_option(VERBS["fit"], "--output_dir=x"))
    'unknown option --output_dir. Here it is --out.'
    """
    shown = typed.partition("=")[0]
    name = hyphened(shown).lower()
    own = [option.name for option in verb.options]
    said = answer(verb, name) or (
        answer(verb, "-" + name) or answer(verb, name[:2]) if not name.startswith("--") else None
    )
    if said is None and (like := nearest(name, own)):
        said = f"Did you mean {like}?"
    if said is None and (like := nearest(name, _habits(verb), likeness=0.85)):
        said = answer(verb, like)
    said = said or f"`warmstart {verb.name} --help` lists its options."
    return UsageError(f"unknown option {shown}. {said}")


def unknown_assignment(verb: Verb, typed: str) -> UsageError | None:
    """What to say of key=value where the key is an option here or elsewhere; None if it is not.

    >>> print(unknown_assignment(VERBS["fit"], "model=yolo11n.pt"))
    unknown argument model=yolo11n.pt. Here it is --start yolo11n.pt
    >>> unknown_assignment(VERBS["fit"], "colour=red") is None
    True
    """
    key, _, value = typed.partition("=")
    said = answer(verb, "--" + hyphened(key).lower(), value)
    return UsageError(f"unknown argument {typed}. {said}") if said else None


def answer(verb: Verb, name: str, value: str = "") -> str | None:
    """The sentence that tells what option `name` (with hyphens) is here; None if unheard of."""
    own = {option.name: option for option in verb.options}
    ours = name if name in own else RENAMED.get(name, "")
    place = ARGUMENTS[verb.name].get(name)
    if place:
        return f"Here {place} stands alone: warmstart {verb.name} {' '.join(verb.arguments)}"
    if ours in own:
        return f"Here it is {ours} {value}".rstrip() + ("" if value else ".")
    if ours == "--out" and verb.name in SAVED:
        return SAVED[verb.name]
    if verb.name == "fit" and name in EXPLAINED:
        return EXPLAINED[name]
    if name in EVERYWHERE:
        return EVERYWHERE[name]
    for other in VERBS.values():
        if any(option.name == name for option in other.options):
            return f"It is an option of `{other.name}`, not of `{verb.name}`."
    return None


def hyphened(word: str) -> str:
    """`--data_dir=a_b` as `--data-dir=a_b`.

    >>> hyphened("--data_dir=a_b")
    '--data-dir=a_b'
    """
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def _habits(verb: Verb) -> list[str]:
    explained = EXPLAINED if verb.name == "fit" else {}
    return [*ARGUMENTS[verb.name], *RENAMED, *explained, *EVERYWHERE]
