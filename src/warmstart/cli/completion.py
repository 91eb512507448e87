"""`warmstart completion`: scripts with which bash, zsh and fish complete verbs and options.

A script is static: pressing Tab starts no Python. After an upgrade it has to be written again.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

from warmstart.cli import all_verbs
from warmstart.cli.options import PLAIN, Call, Option, Verb

SHELLS = ("bash", "zsh", "fish")


def script(shell: str, verbs: tuple[Verb, ...]) -> str:
    """What `eval "$(warmstart completion SHELL)"` reads; `shell` is one of SHELLS.

    >>> script("fish", (VERB,)).splitlines()[0]
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


def completion(call: Call) -> int:
    """Run `warmstart completion`."""
    shell, text = call.places[0], script(call.places[0], all_verbs())
    print(json.dumps({"shell": shell, "script": text}) if "--json" in call.switches else text)
    return 0


VERB = Verb(
    words="completion bash|zsh|fish",
    needs=("the name of your shell",),
    short="let the Tab key complete verbs and options",
    about="""Prints a script that lets your shell complete verbs, options and their values; it
    starts no program while you type. For ~/.bashrc or ~/.zshrc: eval "$(warmstart completion
    bash)"; for config.fish: warmstart completion fish | source.""",
    options=PLAIN,
    examples=(
        "warmstart completion bash",
        "warmstart completion zsh > _warmstart  # into a folder of $fpath",
    ),
    run=completion,
    is_light=True,
)
