"""One line for each verb, option or key=value that is not ours: what it is called here."""

from __future__ import annotations

from collections.abc import Iterable

from warmstart import __version__
from warmstart.cli.options import Verb
from warmstart.cli.spec import VERBS
from warmstart.errors import UsageError

# ---- What people type out of habit from other tools, and the answer that names ours.


VERB_HABITS = {
    **dict.fromkeys(("train", "run", "launch", "finetune", "fine-tune"), "fit"),
    **dict.fromkeys(("val", "eval", "test", "validate", "score"), "evaluate"),
    **dict.fromkeys(("infer", "inference", "classify"), "predict"),
    **dict.fromkeys(("diff", "benchmark", "versus", "vs"), "compare"),
    **dict.fromkeys(("models", "zoo", "hub"), "models"),
    **dict.fromkeys(("continue", "restart", "go-on", "goon"), "resume"),
    **dict.fromkeys(("convert", "to-onnx", "onnx", "openvino", "quantize", "save"), "export"),
    **dict.fromkeys(("lr_find", "lr-find", "lr_finder", "lr-finder"), "fit DATA --dry-run"),
    **dict.fromkeys(("server", "api", "deploy", "web"), "serve"),
    **dict.fromkeys(("app", "ui", "webui", "gui", "label", "annotate"), "studio"),
}

# Same meaning, another name: our option takes the value as it is.
RENAMED = {
    **dict.fromkeys(
        (
            "--model",
            "--model-name-or-path",
            "--model-name",
            "--backbone",
            "--weights",
            "--checkpoint",
            "--pretrained-model",
        ),
        "--base",
    ),
    **dict.fromkeys(
        (
            "--output",
            "--output-dir",
            "--out-dir",
            "--outdir",
            "--project",
            "--name",
            "--save-dir",
            "--run-dir",
            "-o",
        ),
        "--out",
    ),
    **dict.fromkeys(("--architecture", "--model-type"), "--arch"),
    **dict.fromkeys(("--time-limit", "--time", "--max-time", "--time-budget"), "--minutes"),
    **dict.fromkeys(("--random-state", "--random-seed", "--manual-seed"), "--seed"),
    **dict.fromkeys(
        ("--label-column", "--label-col", "--label-column-name", "--target", "--target-column"),
        "--label",
    ),
    **dict.fromkeys(("--group-column", "--group-col", "--groups"), "--group"),
    **dict.fromkeys(("--test-dir", "--test-data", "--test-file", "--test-set"), "--test"),
    **dict.fromkeys(("--preset", "--presets", "--quality"), "--budget"),
    **dict.fromkeys(("--silent",), "--quiet"),
    **dict.fromkeys(("--base-model", "--reference", "--original"), "--base"),
    **dict.fromkeys(
        ("--learning-rate", "--lr0", "--base-lr", "--head-lr", "--backbone-lr"), "--lr"
    ),
    **dict.fromkeys(("--config", "--cfg"), "--plan"),
    **dict.fromkeys(("--report-to", "--log-with", "--logger", "--loggers"), "--track"),
    **dict.fromkeys(("--dryrun", "--plan-only"), "--dry-run"),
    **dict.fromkeys(("--base", "--models", "--backbones", "--networks"), "--models"),
    "--strategy": "--strategies",
    **dict.fromkeys(("--format", "--target", "--export-format"), "--to"),
    **dict.fromkeys(("--quantize", "--quantise", "--quantized", "--quant"), "--int8"),
    **dict.fromkeys(("--bind", "--address", "--ip", "--server-name", "-H"), "--host"),
    **dict.fromkeys(("--server-port", "-p"), "--port"),
    **dict.fromkeys(("--api-key", "--key", "--password", "--auth", "--api-token"), "--token"),
    **dict.fromkeys(("--inbrowser", "--browser", "--open-browser"), "--open"),
    **dict.fromkeys(("--allowed-hosts", "--allowed-host", "--allow-hosts"), "--allow-host"),
}

# The thing is an argument here, without an option before it.
_DATA = (
    "--data",
    "--data-dir",
    "--train-dir",
    "--dataset",
    "--dataset-name",
    "--data-path",
    "--train-data",
    "--train-file",
    "--train",
    "--root",
)
_RUN = ("--model", "--model-name-or-path", "--run", "--weights", "--checkpoint", "--model-dir")
_PATH = ("--source", "--input", "--inputs", "--image", "--images", "--path", "--file", *_DATA)
ARGUMENTS = {
    "fit": dict.fromkeys(_DATA, "DATA"),
    "resume": dict.fromkeys(
        ("--out", "--output-dir", "--resume", "--resume-from-checkpoint", *_RUN), "RUN"
    ),
    "check": dict.fromkeys(_DATA, "DATA"),
    "predict": {**dict.fromkeys(_PATH, "PATH"), **dict.fromkeys(_RUN, "RUN")},
    "evaluate": {
        **dict.fromkeys((*_DATA, "--test", "--test-dir", "--test-data"), "DATA"),
        **dict.fromkeys(_RUN, "RUN"),
    },
    "compare": {
        **dict.fromkeys(("--data", "--train-dir", "--dataset"), "DATA"),
        **dict.fromkeys(("--run", "--runs"), "RUN"),
    },
    "rank": dict.fromkeys(_DATA, "DATA"),
    "audit": dict.fromkeys(("--run", *_RUN), "MODEL"),
    "export": dict.fromkeys(_RUN, "RUN"),
    "suggest": {**dict.fromkeys(_PATH, "UNLABELLED"), **dict.fromkeys(_RUN, "RUN")},
    "serve": dict.fromkeys(_RUN, "RUN"),
    "studio": dict.fromkeys(_DATA, "DATA"),
    "report": dict.fromkeys(_RUN, "RUN"),
    "models": {},
    "cache": {},
}

_SET = "Here it is --set training.{} (see --dry-run for all choices)."
_PASSES = "Here it is --set training.epochs=N (10 is usual)."
_CHOSEN = "Not needed: warmstart chooses it."
_LATER = f"It is not part of this version ({__version__})."
_ON_CPU = "Only `fit` uses another device, for training; the rest runs on the processor."
_RATE = (
    "Here the rate comes by rule (--dry-run says why) and --lr sets another; rate_probe compares "
    "three in Python: docs/notebook.md."
)
_VIEWS = "Here it is --set training.crop=0.35 and --set training.flip=true, where layers are tuned."
_FROZEN = (
    "Here it is --strategy: head freezes all layers, frozen:K the first K, last:N all but the "
    "last N."
)

# Options of `fit` elsewhere that have no counterpart in this version, and why.
EXPLAINED = {
    **dict.fromkeys(
        ("--format", "--export", "--export-format"), "Here it is `warmstart export RUN --to onnx`."
    ),
    **dict.fromkeys(
        (
            "--epochs",
            "-e",
            "--num-epochs",
            "--num-train-epochs",
            "--max-epochs",
            "--steps",
            "--max-steps",
        ),
        _PASSES,
    ),
    **dict.fromkeys(
        ("--lr-find", "--lr-finder", "--find-lr", "--auto-lr-find", "--auto-lr", "--lr-range-test"),
        _RATE,
    ),
    **dict.fromkeys(("--optimizer", "--optim", "--opt"), _SET.format("optimizer=sgd")),
    **dict.fromkeys(("--weight-decay", "--wd"), _SET.format("weight_decay=0.01")),
    **dict.fromkeys(
        ("--batch-size", "-b", "--batch", "--per-device-train-batch-size"),
        _SET.format("batch=16"),
    ),
    **dict.fromkeys(("--folds", "--n-folds", "--cv"), _SET.format("folds=5")),
    **dict.fromkeys(
        ("--warmup", "--warmup-steps", "--warmup-epochs", "--warmup-ratio"),
        _SET.format("warm_up=0.1"),
    ),
    **dict.fromkeys(
        (
            "--momentum",
            "--scheduler",
            "--lr-scheduler",
            "--loss",
            "--workers",
            "-j",
            "--num-workers",
            "--threads",
            "--dropout",
            "--fp16",
            "--bf16",
            "--amp",
            "--patience",
        ),
        _CHOSEN,
    ),
    **dict.fromkeys(
        ("--img-size", "--imgsz", "--image-size", "--input-size", "--resolution", "--resize"),
        "The start brings its own image size; another one is --set input.size=PX.",
    ),
    **dict.fromkeys(
        ("--channels", "--in-chans", "--in-channels", "--bands"),
        "Here it is --set input.channels=N.",
    ),
    **dict.fromkeys(("--tensorboard", "--tb"), "Here it is --track tensorboard."),
    "--wandb": "Here it is --track wandb.",
    "--mlflow": "Here it is --track mlflow.",
    "--strategies": "Here --strategy takes one; `warmstart compare DATA --strategies A,B` runs "
    "several.",
    **dict.fromkeys(("--lora", "--peft"), "Here it is --strategy full+lora or last:N+lora."),
    **dict.fromkeys(("--lora-rank", "--rank"), "Here it is --set training.lora_rank=8."),
    **dict.fromkeys(
        (
            "--val-split",
            "--validation-split",
            "--val-size",
            "--test-size",
            "--split",
            "--train-val-split",
        ),
        "Not needed: accuracy is estimated inside the training images, "
        "or on a val/ folder where there is one.",
    ),
    **dict.fromkeys(
        ("--val", "--val-dir", "--validation-dir", "--validation-file", "--val-data"),
        "Put those images into DATA/val/; a folder of that name is held out.",
    ),
    **dict.fromkeys(
        ("--num-classes", "--classes", "--n-classes"),
        "Not needed: the classes are read from the data.",
    ),
    **dict.fromkeys(("--freeze", "--backbone-freeze", "--freeze-backbone"), _FROZEN),
    "--pretrained": "Not needed: every start is pretrained.",
    **dict.fromkeys(("--augment", "--augmentation", "--aa"), _VIEWS),
    **dict.fromkeys(
        ("--resume", "--resume-from-checkpoint", "--auto-resume", "--continue"),
        "Here it is `warmstart resume RUN`.",
    ),
    **dict.fromkeys(
        ("--exist-ok", "--overwrite", "--overwrite-output-dir", "--force", "-f"),
        "A run folder is never overwritten; leave --out away and a new one is made.",
    ),
    **dict.fromkeys(("--gpu", "--gpus", "--cuda", "--accelerator"), "Here it is --device cuda."),
    **dict.fromkeys(
        ("--metric", "--source-data", "--kind", "--mixup", "--cutmix"),
        _LATER,
    ),
}

# Habits that mean the same with every verb.
EVERYWHERE = {
    **dict.fromkeys(
        ("--verbose", "-v", "--log-level"),
        "Here --debug shows where an error arose; progress is always shown.",
    ),
    **dict.fromkeys(("--device", "--gpu", "--gpus", "--cuda"), _ON_CPU),
    **dict.fromkeys(("--batch-size", "-b", "--workers", "--num-workers"), _CHOSEN),
}
SAVED = {
    "predict": "The answers go to stdout; write them to a file with > FILE.",
    "evaluate": "The result goes to stdout; write it to a file with > FILE.",
}


def nearest(word: str, known: Iterable[str], likeness: float = 0.7) -> str | None:
    """The most similar known word, or None if none is alike enough.

    >>> nearest("buget", ["base", "budget"])
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
    unknown argument model=yolo11n.pt. Here it is --base yolo11n.pt
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
