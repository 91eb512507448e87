"""The Tab key knows the verbs, their options and the values that an option takes."""

import json
import shutil
import subprocess

import pytest

from warmstart.cli.completion import SHELLS, script
from warmstart.cli.main import main
from warmstart.cli.verbs import all_verbs

VERBS = {verb.name: verb for verb in all_verbs()}

ALL = tuple(VERBS.values())


def completed(*words):
    """What bash offers after these words, the last of which is being typed."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    typed = " ".join(f"'{word}'" for word in ("warmstart", *words))
    code = f"{script('bash', ALL)}\nCOMP_WORDS=({typed}); COMP_CWORD={len(words)}; _warmstart\n"
    done = subprocess.run(
        ["bash", "-c", code + 'printf "%s\\n" "${COMPREPLY[@]}"'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_verbs():
    assert completed("") == list(VERBS)
    assert completed("stu") == ["studio"]


@pytest.mark.parametrize("verb", VERBS)
def test_bash_completes_the_options_of_each_verb(verb):
    flags = [name for o in VERBS[verb].options for name in (o.name, o.short) if name]
    assert completed(verb, "-") == flags


def test_bash_completes_values_and_leaves_files_to_the_shell():
    assert completed("fit", "photos", "--budget", "") == ["fast", "balanced", "thorough"]
    assert completed("export", "runs/a", "--to", "o") == ["onnx", "openvino"]
    assert completed("cache", "") == ["info", "clear"]
    assert completed("completion", "") == list(SHELLS)
    assert completed("fit", "pho") == []
    assert completed("fit", "--test", "x") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_can_read_its_script(shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([shell, "-n"], input=script(shell, ALL), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_fish_completes_values():
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    code = script("fish", ALL) + "\ncomplete -C 'warmstart fit photos --budget '\n"
    done = subprocess.run(["fish", "--no-config", "-c", code], capture_output=True, text=True)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [
        "balanced",
        "fast",
        "thorough",
    ]


@pytest.mark.parametrize("shell", SHELLS)
def test_every_verb_and_option_stands_in_every_script(shell):
    text = script(shell, ALL)
    for verb in ALL:
        assert verb.name in text
        for option in verb.options:
            assert f"-l {option.name[2:]}" in text if shell == "fish" else option.name in text


def test_the_command_prints_it(capsys):
    assert main(["completion", "bash"]) == 0
    assert capsys.readouterr().out == script("bash", ALL) + "\n"
    assert main(["completion", "zsh", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"shell": "zsh", "script": script("zsh", ALL)}


def test_another_shell_is_one_line(capsys):
    assert main(["completion", "bsh"]) == 2
    message = "warmstart: completion bsh is not one of bash, zsh, fish. Did you mean bash?\n"
    assert capsys.readouterr().err == message
