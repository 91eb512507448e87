"""What people type out of habit from other tools, and the answer that names ours."""

from __future__ import annotations

from warmstart import __version__

VERB_HABITS = {
    **dict.fromkeys(("train", "run", "launch", "finetune", "fine-tune"), "fit"),
    **dict.fromkeys(("val", "eval", "test", "validate", "score"), "evaluate"),
    **dict.fromkeys(("infer", "inference", "classify"), "predict"),
    **dict.fromkeys(("models", "zoo", "hub"), "starts"),
}

# Same meaning, another name: our option takes the value as it is.
RENAMED = {
    **dict.fromkeys(
        ("--model", "--model-name-or-path", "--model-name", "--backbone", "--weights",
         "--checkpoint", "--pretrained-model"),
        "--start",
    ),
    **dict.fromkeys(
        ("--output", "--output-dir", "--out-dir", "--outdir", "--project", "--name", "--save-dir",
         "--run-dir", "-o"),
        "--out",
    ),
    **dict.fromkeys(("--architecture", "--model-type"), "--arch"),
    **dict.fromkeys(("--random-state", "--random-seed", "--manual-seed"), "--seed"),
    **dict.fromkeys(
        ("--label-column", "--label-col", "--label-column-name", "--target", "--target-column"),
        "--label",
    ),
    **dict.fromkeys(("--group-column", "--group-col", "--groups"), "--group"),
    **dict.fromkeys(("--test-dir", "--test-data", "--test-file", "--test-set"), "--test"),
    **dict.fromkeys(("--preset", "--presets", "--quality"), "--budget"),
    **dict.fromkeys(("--silent",), "--quiet"),
    **dict.fromkeys(("--start", "--models", "--backbones", "--networks"), "--starts"),
}  # fmt: skip

# The thing is an argument here, without an option before it.
_DATA = (
    "--data", "--data-dir", "--train-dir", "--dataset", "--dataset-name", "--data-path",
    "--train-data", "--train-file", "--train", "--root",
)  # fmt: skip
_RUN = ("--model", "--model-name-or-path", "--run", "--weights", "--checkpoint", "--model-dir")
_PATH = ("--source", "--input", "--inputs", "--image", "--images", "--path", "--file", *_DATA)
ARGUMENTS = {
    "fit": dict.fromkeys(_DATA, "DATA"),
    "predict": {**dict.fromkeys(_PATH, "PATH"), **dict.fromkeys(_RUN, "RUN")},
    "evaluate": {
        **dict.fromkeys((*_DATA, "--test", "--test-dir", "--test-data"), "DATA"),
        **dict.fromkeys(_RUN, "RUN"),
    },
    "rank": dict.fromkeys(_DATA, "DATA"),
    "suggest": {**dict.fromkeys(_PATH, "UNLABELLED"), **dict.fromkeys(_RUN, "RUN")},
    "starts": {},
    "cache": {},
}

_EXACT = "Not needed: the new output is computed exactly, in one step."
_CHOSEN = "Not needed: this version chooses it."
_LATER = f"It is not part of this version ({__version__})."
_ONCE = f"Not part of this version ({__version__}): each image is looked at once, as it is."
_FROZEN = (
    f"Not needed: this version ({__version__}) keeps every layer frozen and learns a new output."
)

# Options of `fit` elsewhere that have no counterpart in this version, and why.
EXPLAINED = {
    **dict.fromkeys(
        ("--lr", "--learning-rate", "--lr0", "--base-lr", "--head-lr", "--backbone-lr"),
        f"This version ({__version__}) has no learning rate: "
        "the new output is computed exactly, in one step.",
    ),
    **dict.fromkeys(
        ("--epochs", "-e", "--num-epochs", "--num-train-epochs", "--max-epochs", "--steps",
         "--max-steps", "--optimizer", "--optim", "--momentum", "--scheduler", "--lr-scheduler",
         "--warmup", "--warmup-steps", "--warmup-epochs", "--loss"),
        _EXACT,
    ),
    "--patience": "Not needed: the new output is computed exactly; there is nothing to stop early.",
    **dict.fromkeys(
        ("--batch-size", "-b", "--batch", "--per-device-train-batch-size", "--workers", "-j",
         "--num-workers", "--threads", "--weight-decay", "--wd", "--dropout", "--fp16", "--bf16",
         "--amp", "--folds", "--n-folds", "--cv"),
        _CHOSEN,
    ),
    **dict.fromkeys(
        ("--img-size", "--imgsz", "--image-size", "--input-size", "--resolution", "--resize"),
        "Not needed: the start brings its own image size.",
    ),
    **dict.fromkeys(
        ("--val-split", "--validation-split", "--val-size", "--test-size", "--split",
         "--train-val-split"),
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
    **dict.fromkeys(("--augment", "--augmentation", "--aa", "--mixup", "--cutmix"), _ONCE),
    "--resume": "Run the same command again: what was computed is kept.",
    **dict.fromkeys(
        ("--exist-ok", "--overwrite", "--overwrite-output-dir", "--force", "-f"),
        "A run folder is never overwritten; leave --out away and a new one is made.",
    ),
    **dict.fromkeys(
        ("--device", "--gpu", "--gpus", "--cuda", "--accelerator"),
        f"This version ({__version__}) computes on the processor (CPU).",
    ),
    **dict.fromkeys(
        ("--minutes", "--time-limit", "--time", "--max-time", "--plan", "--metric",
         "--source-data", "--kind", "--task", "--track", "--parallel",
         "--dry-run", "--set", "--config", "--cfg", "--lora", "--format", "--export"),
        _LATER,
    ),
}  # fmt: skip

# Habits that mean the same with every verb.
EVERYWHERE = {
    **dict.fromkeys(
        ("--verbose", "-v", "--log-level"),
        "Here --debug shows where an error arose; progress is always shown.",
    ),
    **dict.fromkeys(
        ("--device", "--gpu", "--gpus", "--cuda"),
        f"This version ({__version__}) computes on the processor (CPU).",
    ),
    **dict.fromkeys(("--batch-size", "-b", "--workers", "--num-workers"), _CHOSEN),
}
SAVED = {
    "predict": "The answers go to stdout; write them to a file with > FILE.",
    "evaluate": "The result goes to stdout; write it to a file with > FILE.",
}
