"""From the words of a command line to a checked `Call`, or one line that names ours."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import NoReturn

from warmstart import __version__
from warmstart.cli import NAMES, all_verbs, verb_named
from warmstart.cli.options import Call, Option, Verb
from warmstart.errors import UsageError

ASSIGNMENT = re.compile(r"[A-Za-z][\w-]*=")


class _Parser(argparse.ArgumentParser):
    """argparse that raises an error instead of printing it."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def parse(words: Sequence[str]) -> Call:
    """Check the words of one command.

    Raises: UsageError with the line for the user.

    >>> call = parse(["fit", "photos", "--seed=3", "--json"])
    >>> call.places, call.values, sorted(call.switches)
    (('photos',), {'--seed': '3'}, ['--json'])
    """
    word, *rest = _verb_first(words)
    if word not in NAMES:
        raise unknown_verb(word, is_path=os.path.exists(word))
    verb = verb_named(word)
    cut = rest.index("--") if "--" in rest else len(rest)
    before, after = rest[:cut], rest[cut + 1 :]
    if "--help" in before or "-h" in before:
        return Call(verb=word, switches=frozenset({"--help"}))
    options, places = _options(verb, before)
    places += after
    values = {name: value for name, value in options.items() if isinstance(value, str)}
    many = {name: tuple(value) for name, value in options.items() if isinstance(value, list)}
    for option in verb.options:
        if option.name in values:
            _check_value(option, values[option.name])
    _check_places(verb, places)
    switches = frozenset(options.keys() - values.keys() - many.keys())
    return Call(verb=word, places=tuple(places), values=values, many=many, switches=switches)


def _verb_first(words: Sequence[str]) -> list[str]:
    """Switches may stand before the verb; options with a value may not."""
    leading = list(takewhile(lambda word: word.startswith("-"), words))
    switches = {o.name for verb in all_verbs() for o in verb.options if o.value is None} | {"-q"}
    if len(leading) == len(words) or not switches.issuperset(map(hyphenated, leading)):
        raise UsageError("a verb comes first, its options after it: warmstart fit DATA --seed 3")
    verb, *rest = words[len(leading) :]
    return [verb, *leading, *rest]


def _options(
    verb: Verb, words: Sequence[str]
) -> tuple[dict[str, str | bool | list[str]], list[str]]:
    """Options by name, and the other words."""
    hyphens = [hyphenated(word) if word.startswith("--") else word for word in words]
    typed = dict(zip(hyphens, words, strict=True))
    parser = _Parser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for option in verb.options:
        names = [option.name, *([option.short] if option.short else [])]
        action = "store_true" if option.value is None else "append" if option.is_many else "store"
        parser.add_argument(*names, dest=option.name, action=action, default=argparse.SUPPRESS)
    try:
        namespace, rest = parser.parse_known_args(hyphens)
    except argparse.ArgumentError as error:
        raise _misuse(verb, error) from None
    for word in rest:
        if word.startswith("-") and word != "-":
            raise unknown_option(verb, typed[word])
        if ASSIGNMENT.match(word) and not os.path.exists(word):
            hint = unknown_assignment(verb, word)
            if hint:
                raise hint
    return vars(namespace), rest


def _misuse(verb: Verb, error: argparse.ArgumentError) -> UsageError:
    name = (error.argument_name or "").split("/")[0]
    option = next((o for o in verb.options if name in (o.name, o.short)), None)
    if option is None:
        return UsageError(str(error))
    if option.value is None:
        return UsageError(f"{option.name} is a switch and takes no value.")
    return _needs_value(option)


def _needs_value(option: Option) -> UsageError:
    example = " or ".join(option.choices) or option.value
    return UsageError(f"{option.name} needs a value: {option.name} {example}")


def _check_value(option: Option, value: str) -> None:
    if not value.strip(" ,"):
        raise _needs_value(option)
    if option.rule and not option.rule.is_valid(value):
        raise UsageError(f"{option.name} {value}: it needs {option.rule.needs}.")
    if option.choices and value not in option.choices:
        raise _no_choice(option.name, value, option.choices)


def _no_choice(name: str, value: str, choices: Sequence[str], likeness: float = 0.7) -> UsageError:
    like = nearest(value, choices, likeness)
    hint = f" Did you mean {like}?" if like else ""
    return UsageError(f"{name} {value} is not one of {', '.join(choices)}.{hint}")


def _check_places(verb: Verb, places: Sequence[str]) -> None:
    usage = f"Usage: warmstart {verb.words} [options]"
    if len(places) < len(verb.needs):
        missing = verb.arguments[len(places)].removesuffix("...")
        raise UsageError(f"{verb.name} needs {missing}, {verb.needs[len(places)]}. {usage}")
    is_open = any(argument.endswith("...") for argument in verb.arguments)
    if not is_open and len(places) > len(verb.arguments):
        extra = places[len(verb.arguments)]
        raise UsageError(f"`{extra}` is one argument too many. {usage}")
    if verb.choices and places[0] not in verb.choices:
        raise _no_choice(verb.name, places[0], verb.choices, likeness=0.5)


# ---- What people type out of habit from other tools, and the answer that names ours.


def _by_word(table: Mapping[str, str]) -> dict[str, str]:
    """Invert a table of answers and the words, separated by spaces, that each is for."""
    return {word: answer for answer, words in table.items() for word in words.split()}


VERB_HABITS = _by_word(
    {
        "fit": "train run launch finetune fine-tune",
        "evaluate": "val eval test validate score",
        "predict": "infer inference classify",
        "compare": "diff benchmark versus vs",
        "models": "zoo hub",
        "resume": "continue restart go-on goon",
        "export": "convert to-onnx onnx openvino quantize save",
        "fit DATA --dry-run": "lr_find lr-find lr_finder lr-finder",
        "serve": "server api deploy web",
        "studio": "app ui webui gui label annotate",
    }
)

# Our options and their names elsewhere; the value is the same.
RENAMED = {
    "--base": "--model --model-name-or-path --model-name --backbone --weights --checkpoint "
    "--pretrained-model --base-model --reference --original",
    "--models": "--base --models --backbones --networks",
    "--out": "--output --output-dir --out-dir --outdir --project --name --save-dir --run-dir -o",
    "--arch": "--architecture --model-type",
    "--minutes": "--time-limit --time --max-time --time-budget",
    "--seed": "--random-state --random-seed --manual-seed",
    "--label": "--label-column --label-col --label-column-name --target --target-column",
    "--group": "--group-column --group-col --groups",
    "--test": "--test-dir --test-data --test-file --test-set",
    "--budget": "--preset --presets --quality",
    "--quiet": "--silent",
    "--lr": "--learning-rate --lr0 --base-lr --head-lr --backbone-lr",
    "--plan": "--config --cfg",
    "--track": "--report-to --log-with --logger --loggers",
    "--dry-run": "--dryrun --plan-only",
    "--strategies": "--strategy",
    "--to": "--format --target --export-format",
    "--int8": "--quantize --quantize_graph --quantized --quant",
    "--host": "--bind --address --ip --server-name -H",
    "--port": "--server-port -p",
    "--token": "--api-key --key --password --auth --api-token",
    "--open": "--inbrowser --browser --open-browser",
    "--allow-host": "--allowed-hosts --allowed-host --allow-hosts",
}

# Options elsewhere that are arguments here.
_DATA = (
    "--data --data-dir --train-dir --dataset --dataset-name --data-path --train-data --train-file "
    "--train --root"
)
_RUN = "--model --model-name-or-path --run --weights --checkpoint --model-dir"
_PATH = f"--source --input --inputs --image --images --path --file {_DATA}"
ARGUMENTS = {
    verb: _by_word(table)
    for verb, table in {
        "fit": {"DATA": _DATA},
        "resume": {"RUN": f"--out --output-dir --resume --resume-from-checkpoint {_RUN}"},
        "check": {"DATA": _DATA},
        "predict": {"PATH": _PATH, "RUN": _RUN},
        "evaluate": {"DATA": f"{_DATA} --test --test-dir --test-data", "RUN": _RUN},
        "compare": {"DATA": "--data --train-dir --dataset", "RUN": "--run --runs"},
        "rank": {"DATA": _DATA},
        "audit": {"MODEL": _RUN},
        "export": {"RUN": _RUN},
        "suggest": {"UNLABELLED": _PATH, "RUN": _RUN},
        "serve": {"RUN": _RUN},
        "studio": {"DATA": _DATA},
        "report": {"RUN": _RUN},
    }.items()
}

# Options of `fit` elsewhere that are something else here, or nothing.
_CHOSEN = "Not needed: warmstart chooses it."
_SET = "Here it is --set training.{} (see --dry-run for all choices)."
EXPLAINED = _by_word(
    {
        "Here it is `warmstart export RUN --to onnx`.": "--format --export --export-format",
        "Here it is --set training.epochs=N (10 is usual).": (
            "--epochs -e --num-epochs --num-train-epochs --max-epochs --steps --max-steps"
        ),
        "A rule sets the learning rate (--dry-run says why), --lr overrides it; "
        "compare_learning_rates compares three in Python: docs/notebook.md.": (
            "--lr-find --lr-finder --find-lr --auto-lr-find --auto-lr --lr-range-test"
        ),
        _SET.format("optimizer=sgd"): "--optimizer --optim --opt",
        _SET.format("weight_decay=0.01"): "--weight-decay --wd",
        _SET.format("batch_size=16"): "--batch-size -b --batch --per-device-train-batch-size",
        _SET.format("folds=5"): "--folds --n-folds --cv",
        _SET.format("warmup=0.1"): "--warmup --warmup-steps --warmup-epochs --warmup-ratio",
        _CHOSEN: (
            "--momentum --scheduler --lr-scheduler --loss --workers -j --num-workers --threads "
            "--dropout --fp16 --bf16 --amp --patience"
        ),
        "The base model has its image size; set another one with --set input.size=PX.": (
            "--img-size --imgsz --image-size --input-size --resolution --resize"
        ),
        "Here it is --set input.channels=N.": "--channels --in-chans --in-channels --bands",
        "Here it is --track tensorboard.": "--tensorboard --tb",
        "Here it is --track wandb.": "--wandb",
        "Here it is --track mlflow.": "--mlflow",
        "Here --strategy takes one; `warmstart compare DATA --strategies A,B` runs several.": (
            "--strategies"
        ),
        "Here it is --strategy full+lora or last:N+lora.": "--lora --peft",
        "Here it is --set training.lora_rank=8.": "--lora-rank --rank",
        "Not needed: accuracy is estimated inside the training images, or on a val/ folder where "
        "there is one.": (
            "--val-split --validation-split --val-size --test-size --split --train-val-split"
        ),
        "Put those images into DATA/val/; a folder of that name is held out.": (
            "--val --val-dir --validation-dir --validation-file --val-data"
        ),
        "Not needed: the classes are read from the data.": "--num-classes --classes --n-classes",
        "Here it is --strategy: head freezes all blocks, frozen:K the first K, last:N all but the "
        "last N.": "--freeze --backbone-freeze --freeze-backbone",
        "Not needed: every base model is pretrained.": "--pretrained",
        "Here it is --set training.crop=0.35 and --set training.flip=true, where layers are "
        "fine-tuned.": "--augment --augmentation --aa",
        "Here it is `warmstart resume RUN`.": (
            "--resume --resume-from-checkpoint --auto-resume --continue"
        ),
        "A run folder is never overwritten; omit --out to create a new one.": (
            "--exist-ok --overwrite --overwrite-output-dir --force -f"
        ),
        "Here it is --device cuda.": "--gpu --gpus --cuda --accelerator",
        f"It is not part of this version ({__version__}).": (
            "--metric --source-data --kind --mixup --cutmix"
        ),
    }
)

# Habits with any verb.
EVERYWHERE = _by_word(
    {
        "Here --debug shows the traceback of an error; progress is always shown.": (
            "--verbose -v --log-level"
        ),
        "Only `fit` uses another device, for training; the rest runs on the CPU.": (
            "--device --gpu --gpus --cuda"
        ),
        _CHOSEN: "--batch-size -b --workers --num-workers",
    }
)
STDOUT = {
    "predict": "The predictions go to stdout; write them to a file with > FILE.",
    "evaluate": "The metrics go to stdout; write them to a file with > FILE.",
}


def nearest(word: str, candidates: Iterable[str], likeness: float = 0.7) -> str | None:
    """The most similar candidate, or None if none is similar enough."""
    from difflib import get_close_matches

    return next(iter(get_close_matches(word.lower(), list(candidates), 1, likeness)), None)


def unknown_verb(word: str, is_path: bool) -> UsageError:
    """The error for a first word that is no verb; `is_path` if it names something on disk."""
    if word.lower() in VERB_HABITS:
        return UsageError(f"unknown verb `{word}`. Here it is `{VERB_HABITS[word.lower()]}`.")
    if is_path or word.startswith("sample:"):
        return UsageError(f"`{word}` is not a verb. To fine-tune on it: warmstart fit {word}")
    like = nearest(word, NAMES, likeness=0.6)
    if like:
        return UsageError(f"unknown verb `{word}`. Did you mean `{like}`?")
    verbs = ", ".join(NAMES)
    return UsageError(f"unknown verb `{word}`. This version ({__version__}) has {verbs}.")


def unknown_option(verb: Verb, word: str) -> UsageError:
    option = word.partition("=")[0]
    name = hyphenated(option).lower()
    hint = answer(verb, name)
    if hint is None and not name.startswith("--"):
        hint = answer(verb, "-" + name) or answer(verb, name[:2])
    if hint is None and (like := nearest(name, [option.name for option in verb.options])):
        hint = f"Did you mean {like}?"
    if hint is None and (like := nearest(name, _habits(verb), likeness=0.85)):
        hint = answer(verb, like)
    hint = hint or f"`warmstart {verb.name} --help` lists its options."
    return UsageError(f"unknown option {option}. {hint}")


def unknown_assignment(verb: Verb, word: str) -> UsageError | None:
    """The error for key=value where the key is an option here or elsewhere; None if it is not."""
    key, _, value = word.partition("=")
    hint = answer(verb, "--" + hyphenated(key).lower(), value)
    return UsageError(f"unknown argument {word}. {hint}") if hint else None


def answer(verb: Verb, name: str, value: str = "") -> str | None:
    """What option `name` (with hyphens) is called here; None if no tool is known to have it."""
    own = {option.name for option in verb.options}
    names = [name, *(ours for ours, words in RENAMED.items() if name in words.split())]
    argument = ARGUMENTS.get(verb.name, {}).get(name)
    if argument:
        return f"{argument} needs no option: warmstart {verb.words}"
    if ours := next((one for one in names if one in own), None):
        return f"Here it is {ours} {value}".rstrip() + ("" if value else ".")
    if "--out" in names and verb.name in STDOUT:
        return STDOUT[verb.name]
    if verb.name == "fit" and name in EXPLAINED:
        return EXPLAINED[name]
    if name in EVERYWHERE:
        return EVERYWHERE[name]
    for other in all_verbs():
        if any(option.name == name for option in other.options):
            return f"It is an option of `{other.name}`, not of `{verb.name}`."
    return None


def hyphenated(word: str) -> str:
    """The option in hyphens, its value unchanged: `--data-dir=a_b`."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value


def _habits(verb: Verb) -> list[str]:
    names = [name for words in RENAMED.values() for name in words.split()]
    explained = EXPLAINED if verb.name == "fit" else {}
    return [*ARGUMENTS.get(verb.name, {}), *names, *explained, *EVERYWHERE]
