"""Help: short, quick to load, and no option that nobody decided on."""

import json
import re
import shutil
import subprocess
import sys

import pytest

import warmstart
from warmstart.cli import all_verbs
from warmstart.cli.completion import SHELLS, script
from warmstart.cli.main import main

VERBS = {verb.name: verb for verb in all_verbs()}

# A new option is a promise to users: it enters here when it was decided, never by accident.
COMMON, PLAIN = "--json -q --quiet --debug -h --help", "--json --debug -h --help"
FROZEN = {
    "fit": (
        "--base --arch --strategy --budget --lr --minutes --device --parallel --plan "
        "--set --dry-run --test --label --text --task --group --kind --relabel --fix "
        f"--ignore --strict --track --out --seed {COMMON}"
    ),
    "resume": COMMON,
    "check": (
        "--base --arch --budget --test --label --text --task --group --kind --relabel "
        f"--fix --ignore --strict --out --seed {COMMON}"
    ),
    "predict": f"--csv {PLAIN}",
    "evaluate": f"--label --group --text {PLAIN}",
    "compare": (
        "--strategies --base --arch --budget --minutes --device --set --test --label "
        f"--task --group --relabel --fix --strict --seed {COMMON}"
    ),
    "rank": f"--models --label --task --group --strict --seed {COMMON}",
    "audit": f"--base --arch --labels --train --label --group --size --mean --std {COMMON}",
    "export": f"--to --out --int8 --pixels --data --test {COMMON}",
    "suggest": f"--count --out {COMMON}",
    "serve": f"--host --port --token --allow-host --open {PLAIN}",
    "studio": f"--out --base --label --task --group --port --no-open {PLAIN}",
    "report": f"--open {PLAIN}",
    "models": PLAIN,
    "cache": PLAIN,
    "completion": PLAIN,
}
UNWELCOME = re.compile(r"SOTA|state-of-the-art|robust|seamless|successful", re.IGNORECASE)


def help_text(capsys, *words):
    assert main(list(words)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def test_the_verbs_are_those_of_this_version():
    assert list(VERBS) == list(FROZEN)


@pytest.mark.parametrize("verb", FROZEN)
def test_no_option_is_new(verb, capsys):
    listed = help_text(capsys, verb, "--help").split("Options:\n")[1].split("\nExamples:")[0]
    signatures = re.findall(r"^  (-.*?)(?:  |$)", listed, re.MULTILINE)
    options = [word for line in signatures for word in re.findall(r"--?[\w-]+", line)]
    assert options == FROZEN[verb].split()


@pytest.mark.parametrize("words", [(), *((verb,) for verb in FROZEN)])
def test_help_fits_on_a_screen_and_has_examples(words, capsys):
    text = help_text(capsys, *words, "--help")
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= (48 if words else 29)
    examples = text.split("Examples:\n")[1].splitlines()
    assert sum(line.startswith("  warmstart ") for line in examples) >= 2
    assert not UNWELCOME.search(text)


@pytest.mark.parametrize("verb", FROZEN)
def test_the_examples_of_the_help_can_be_parsed(verb):
    from warmstart.cli.parse import parse

    for example in VERBS[verb].examples:
        parse(re.split("  # | > ", example)[0].split()[1:])


def test_help_has_several_spellings(capsys):
    assert help_text(capsys) == help_text(capsys, "-h") == help_text(capsys, "help")
    assert help_text(capsys, "help", "fit") == help_text(capsys, "fit", "-h")
    assert help_text(capsys, "fit", "a", "--help", "--xyzzy") == help_text(capsys, "fit", "--help")
    assert help_text(capsys, "--version") == f"warmstart {warmstart.__version__}\n"


@pytest.mark.parametrize(
    "command", ["fit --help", "--version", "train", "completion zsh", "fit no/such/photos"]
)
def test_nothing_heavy_is_imported_to_answer(command):
    code = (
        "import sys\n"
        "from warmstart.cli.main import main\n"
        f"main({command.split()!r})\n"
        "print('LOADED', *{'torch', 'numpy', 'rich', 'PIL'} & sys.modules.keys())\n"
    )
    job = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert job.stdout.splitlines()[-1] == "LOADED"


@pytest.mark.parametrize(
    ("word", "code", "text"),
    [
        ("--version", 0, f"warmstart {warmstart.__version__}\n"),
        ("train", 2, "warmstart: unknown verb `train`. Here it is `fit`.\n"),
    ],
)
def test_the_module_is_the_command(word, code, text):
    command = [sys.executable, "-m", "warmstart", word]
    job = subprocess.run(command, capture_output=True, text=True)
    assert (job.returncode, job.stdout + job.stderr) == (code, text)


# ---- The Tab key knows the verbs, their options and the values that an option takes.

ALL = tuple(VERBS.values())


def completed(*words):
    """What bash offers after these words, the last of which is being typed."""
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    typed = " ".join(f"'{word}'" for word in ("warmstart", *words))
    code = f"{script('bash', ALL)}\nCOMP_WORDS=({typed}); COMP_CWORD={len(words)}; _warmstart\n"
    code += 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_bash_completes_verbs_and_their_options():
    assert completed("") == list(VERBS)
    assert completed("stu") == ["studio"]
    for verb in ("fit", "export", "cache"):
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
    words = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert words == ["balanced", "fast", "thorough"]


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
    assert main(["completion", "bsh"]) == 2
    assert "bsh is not one of bash, zsh, fish. Did you mean bash?" in capsys.readouterr().err
