"""Help: short, quick to load, and no option that nobody decided on."""

import re
import subprocess
import sys

import pytest

import warmstart
from warmstart.cli.main import main
from warmstart.cli.verbs import all_verbs

VERBS = {verb.name: verb for verb in all_verbs()}

# A new option is a promise to users: it enters here when it was decided, never by accident.
FROZEN = {
    "fit": [
        "--base",
        "--arch",
        "--strategy",
        "--budget",
        "--lr",
        "--minutes",
        "--device",
        "--parallel",
        "--plan",
        "--set",
        "--dry-run",
        "--test",
        "--label",
        "--text",
        "--task",
        "--group",
        "--kind",
        "--relabel",
        "--fix",
        "--ignore",
        "--strict",
        "--track",
        "--out",
        "--seed",
        "--json",
        "-q",
        "--quiet",
        "--debug",
        "-h",
        "--help",
    ],
    "resume": ["--json", "-q", "--quiet", "--debug", "-h", "--help"],
    "check": [
        "--base",
        "--arch",
        "--budget",
        "--test",
        "--label",
        "--text",
        "--task",
        "--group",
        "--kind",
        "--relabel",
        "--fix",
        "--ignore",
        "--strict",
        "--out",
        "--seed",
        "--json",
        "-q",
        "--quiet",
        "--debug",
        "-h",
        "--help",
    ],
    "predict": ["--csv", "--json", "--debug", "-h", "--help"],
    "evaluate": ["--label", "--group", "--text", "--json", "--debug", "-h", "--help"],
    "compare": [
        "--strategies",
        "--base",
        "--arch",
        "--budget",
        "--minutes",
        "--device",
        "--set",
        "--test",
        "--label",
        "--task",
        "--group",
        "--relabel",
        "--fix",
        "--strict",
        "--seed",
        "--json",
        "-q",
        "--quiet",
        "--debug",
        "-h",
        "--help",
    ],
    "rank": [
        "--models",
        "--label",
        "--task",
        "--group",
        "--strict",
        "--seed",
        "--json",
        "-q",
        "--quiet",
        "--debug",
        "-h",
        "--help",
    ],
    "audit": [
        "--base",
        "--arch",
        "--labels",
        "--train",
        "--label",
        "--group",
        "--size",
        "--mean",
        "--std",
        "--json",
        "-q",
        "--quiet",
        "--debug",
        "-h",
        "--help",
    ],
    "export": [
        "--to",
        "--out",
        "--int8",
        "--pixels",
        "--data",
        "--test",
        "--json",
        "-q",
        "--quiet",
        "--debug",
        "-h",
        "--help",
    ],
    "suggest": ["--count", "--out", "--json", "-q", "--quiet", "--debug", "-h", "--help"],
    "serve": [
        "--host",
        "--port",
        "--token",
        "--allow-host",
        "--open",
        "--json",
        "--debug",
        "-h",
        "--help",
    ],
    "studio": [
        "--out",
        "--base",
        "--label",
        "--task",
        "--group",
        "--port",
        "--no-open",
        "--json",
        "--debug",
        "-h",
        "--help",
    ],
    "report": ["--open", "--json", "--debug", "-h", "--help"],
    "models": ["--json", "--debug", "-h", "--help"],
    "cache": ["--json", "--debug", "-h", "--help"],
    "completion": ["--json", "--debug", "-h", "--help"],
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
    assert options == FROZEN[verb]


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


def test_every_verb_is_offered(capsys):
    offered = re.findall(r"^  ([a-z]+)", help_text(capsys, "--help"), re.MULTILINE)
    assert set(offered) == {*VERBS, "warmstart"}


def test_help_has_several_spellings(capsys):
    assert help_text(capsys) == help_text(capsys, "-h") == help_text(capsys, "help")
    assert help_text(capsys, "help", "fit") == help_text(capsys, "fit", "-h")
    assert help_text(capsys, "fit", "a", "--help", "--xyzzy") == help_text(capsys, "fit", "--help")
    assert help_text(capsys, "--version") == f"warmstart {warmstart.__version__}\n"


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["fit", "--help"],
        ["--version"],
        ["train"],
        ["completion", "zsh"],
        ["fit", "no/such/photos"],
    ],
)
def test_nothing_heavy_is_imported_to_answer(words):
    code = (
        "import sys\n"
        "from warmstart.cli.main import main\n"
        f"main({words!r})\n"
        "print('LOADED', *{'torch', 'scipy', 'sklearn', 'rich'} & sys.modules.keys())\n"
    )
    job = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert job.stdout.splitlines()[-1] == "LOADED"


def test_the_module_is_the_command():
    job = subprocess.run(
        [sys.executable, "-m", "warmstart", "--version"], capture_output=True, text=True
    )
    assert (job.returncode, job.stdout) == (0, f"warmstart {warmstart.__version__}\n")
    job = subprocess.run(
        [sys.executable, "-m", "warmstart", "train"], capture_output=True, text=True
    )
    assert job.returncode == 2
    assert job.stderr == "warmstart: unknown verb `train`. Here it is `fit`.\n"
