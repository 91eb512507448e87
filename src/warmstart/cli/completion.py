"""Completion for bash, zsh and fish: scripts written from the table of verbs.

A script is static: pressing Tab starts no Python. After an upgrade it is made anew.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from warmstart.cli.options import Option, Verb

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
    values = [
        f'        "{verb.name} {option.name}") words="{" ".join(option.choices)}" ;;'
        for verb in verbs
        for option in verb.options
        if option.choices
    ]
    options = [f'        {verb.name}) words="{" ".join(_flags(verb))}" ;;' for verb in verbs]
    places = [
        f'        "{verb.name} {verb.name}") words="{" ".join(verb.choices)}" ;;'
        for verb in verbs
        if verb.choices
    ]
    return "\n".join(
        [
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
    )


def _zsh(verbs: tuple[Verb, ...]) -> str:
    listed = [f"        {shlex.quote(f'{verb.name}:{verb.short}')}" for verb in verbs]
    cases: list[str] = []
    for verb in verbs:
        rest = f"*:value:({' '.join(verb.choices)})" if verb.choices else "*:file:_files"
        specs = [*_zsh_options(verb), rest]
        cases.append(f"    {verb.name}) _arguments {' '.join(map(shlex.quote, specs))} ;;")
    return "\n".join(
        [
            '# warmstart for zsh: eval "$(warmstart completion zsh)"',
            "_warmstart() {",
            "    local -a verbs=(",
            *listed,
            "    )",
            "    if (( CURRENT == 2 )); then _describe verb verbs; return; fi",
            '    case "${words[2]}" in',
            *cases,
            "    esac",
            "}",
            "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }",
            "compdef _warmstart warmstart",
        ]
    )


def _zsh_options(verb: Verb) -> Iterator[str]:
    for option in verb.options:
        told = option.help.replace("[", r"\[").replace("]", r"\]").replace(":", r"\:")
        many = "*" if option.is_many else ""
        value = ""
        if option.value is not None:
            value = f":{option.value.replace(':', ' ')}:"
            value += f"({' '.join(option.choices)})" if option.choices else "_files"
        yield f"{many}{option.name}[{told}]{value}"
        if option.short:
            yield f"{option.short}[{told}]{value}"


def _fish(verbs: tuple[Verb, ...]) -> str:
    lines = ["# warmstart for fish: warmstart completion fish | source"]
    for verb in verbs:
        told = _fish_quoted(verb.short)
        lines.append(f"complete -c warmstart -f -n __fish_use_subcommand -a {verb.name} -d {told}")
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


def _flags(verb: Verb) -> Iterator[str]:
    for option in verb.options:
        yield option.name
        if option.short:
            yield option.short
