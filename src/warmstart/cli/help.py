"""Help texts and shell completion, both written from the table of verbs."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from warmstart import __version__
from warmstart.cli.spec import VERBS, Option, Verb

# ---- Completion for bash, zsh and fish.
#
# A script is static: pressing Tab starts no Python. After an upgrade it has to be written again.


SHELLS = ("bash", "zsh", "fish")


def script(shell: str, verbs: tuple[Verb, ...]) -> str:
    """What `eval "$(warmstart completion SHELL)"` reads; `shell` is one of SHELLS.

    >>> from warmstart.cli.spec import VERBS
    >>> script("fish", (VERBS["cache"],)).splitlines()[0]
    '# warmstart for fish: warmstart completion fish | source'
    """
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](verbs)


def _bash(verbs: tuple[Verb, ...]) -> str:
    names = " ".join(verb.name for verb in verbs)
    options, values, places = [], [], []
    for verb in verbs:
        flags = (flag for o in verb.options for flag in (o.name, o.short) if flag)
        options.append(f'        {verb.name}) words="{" ".join(flags)}" ;;')
        values += [
            f'        "{verb.name} {option.name}") words="{" ".join(option.choices)}" ;;'
            for option in verb.options
            if option.choices
        ]
        if verb.choices:
            choices = " ".join(verb.choices)
            places.append(f'        "{verb.name} {verb.name}") words="{choices}" ;;')
    lines = [
        '# warmstart for bash: eval "$(warmstart completion bash)"',
        "_warmstart() {",
        '    local word="${COMP_WORDS[COMP_CWORD]}" words=""',
        f'    if [ "$COMP_CWORD" -eq 1 ]; then words="{names}"',
        '    elif [ "${word:0:1}" = - ]; then case "${COMP_WORDS[1]}" in',
        *options,
        '    esac; else case "${COMP_WORDS[1]} ${COMP_WORDS[COMP_CWORD-1]}" in',
        *values,
        *places,
        "    esac; fi",
        '    COMPREPLY=($(compgen -W "$words" -- "$word"))',
        "}",
        "complete -o default -F _warmstart warmstart",
    ]
    return "\n".join(lines)


def _zsh(verbs: tuple[Verb, ...]) -> str:
    cases: list[str] = []
    for verb in verbs:
        rest = f"*:value:({' '.join(verb.choices)})" if verb.choices else "*:file:_files"
        specs = [*_zsh_options(verb), rest]
        cases.append(f"    {verb.name}) _arguments {' '.join(map(shlex.quote, specs))} ;;")
    lines = [
        '# warmstart for zsh: eval "$(warmstart completion zsh)"',
        "_warmstart() {",
        "    local -a verbs=(",
        *(f"        {shlex.quote(f'{verb.name}:{verb.short}')}" for verb in verbs),
        "    )",
        "    if (( CURRENT == 2 )); then _describe verb verbs; return; fi",
        '    case "${words[2]}" in',
        *cases,
        "    esac",
        "}",
        "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }",
        "compdef _warmstart warmstart",
    ]
    return "\n".join(lines)


def _zsh_options(verb: Verb) -> Iterator[str]:
    for option in verb.options:
        text = option.help.replace("[", r"\[").replace("]", r"\]").replace(":", r"\:")
        many = "*" if option.is_many else ""
        value = ""
        if option.value is not None:
            value = f":{option.value.replace(':', ' ')}:"
            value += f"({' '.join(option.choices)})" if option.choices else "_files"
        yield f"{many}{option.name}[{text}]{value}"
        if option.short:
            yield f"{option.short}[{text}]{value}"


def _fish(verbs: tuple[Verb, ...]) -> str:
    lines = ["# warmstart for fish: warmstart completion fish | source"]
    for verb in verbs:
        text = _fish_quoted(verb.short)
        lines.append(f"complete -c warmstart -f -n __fish_use_subcommand -a {verb.name} -d {text}")
    for verb in verbs:
        when = f"complete -c warmstart -n '__fish_seen_subcommand_from {verb.name}'"
        if verb.choices:
            lines.append(f"{when} -f -a '{' '.join(verb.choices)}'")
        lines += [f"{when} {_fish_option(option)}" for option in verb.options]
    return "\n".join(lines)


def _fish_option(option: Option) -> str:
    words = [f"-l {option.name.removeprefix('--')}"]
    words += [f"-s {option.short.removeprefix('-')}"] if option.short else []
    if option.choices:
        words.append(f"-x -a '{' '.join(option.choices)}'")
    elif option.value is not None:
        words.append("-r")
    return " ".join([*words, f"-d {_fish_quoted(option.help)}"])


def _fish_quoted(text: str) -> str:
    """Fish knows two escapes inside single quotes."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


# ---- Help texts, short enough for one screen.


WIDTH = 80


def root_help() -> str:
    examples = (
        "warmstart fit sample:digits  # needs no images of yours",
        "warmstart fit photos/  # photos/<class>/*.jpg",
        "warmstart predict runs/photos new.jpg",
    )
    lines = [
        f"warmstart {__version__}: fine-tune a pretrained network on your own images, on this",
        "computer, and measure how far its predictions can be trusted.",
        "",
        "Usage: warmstart VERB ...     (warmstart VERB --help explains a verb)",
        "",
        *_columns([(verb.words, verb.short) for verb in VERBS.values()], left=26),
        "",
        "DATA is a folder with one sub-folder per class (photos/cat/1.jpg), a table or an",
        "archive. RUN is the folder that fit writes, such as runs/photos.",
        "",
        "Examples:",
        *_examples(examples),
    ]
    return "\n".join(lines)


def verb_help(verb: Verb) -> str:
    options = [(option.signature, option.help) for option in verb.options]
    lines = [
        f"Usage: warmstart {verb.words} [options]",
        "",
        *textwrap.wrap(" ".join(verb.about.split()), WIDTH),
        "",
        "Options:",
        *_columns(options, left=20),
        "",
        "Examples:",
        *_examples(verb.examples),
    ]
    return "\n".join(lines)


def _columns(rows: Iterable[tuple[str, str]], left: int) -> list[str]:
    lines: list[str] = []
    for name, text in rows:
        wrapped = textwrap.wrap(text, WIDTH - left - 2)
        lines.append(f"  {name:<{left}}{wrapped[0]}")
        lines += [" " * (left + 2) + line for line in wrapped[1:]]
    return lines


def _examples(examples: Sequence[str]) -> list[str]:
    rows = [example.partition("  # ") for example in examples]
    left = max((len(command) for command, _, purpose in rows if purpose), default=0) + 3
    return [f"  {command:<{left}}# {why}" if why else f"  {command}" for command, _, why in rows]
