"""Every verb and option of this version: one table that parsing, help and hints read."""

from __future__ import annotations

from warmstart.cli.options import (
    ARCH,
    BUDGET,
    DEBUG,
    DEVICE,
    FIX,
    GROUP,
    HELP,
    JSON,
    KIND,
    LABEL,
    MINUTES,
    PARALLEL,
    QUIET,
    READ_ALL,
    RELABEL,
    SEED,
    SET,
    START,
    STRICT,
    TASK,
    TEST,
    TEXT,
    Option,
    Verb,
)
from warmstart.cli.spec_runs import (
    COMPARE,
    EVALUATE,
    EXPORT,
    PREDICT,
    REPORT,
    RESUME,
    SERVE,
    SUGGEST,
)
from warmstart.cli.spec_studio import STUDIO

__all__ = ["VERBS", "Option", "Verb"]

FIT = Verb(
    name="fit",
    arguments=("DATA",),
    needs=("the labelled images",),
    short="learn from labelled images and write a run folder",
    about=(
        "Learns the classes of DATA: a folder with one sub-folder a class (photos/cat/1.jpg), "
        "a table of paths and classes, or a zip or tar of either. Writes a run folder: the "
        "model, how often it is right, and what was decided and why."
    ),
    options=(
        START,
        ARCH,
        Option(
            name="--strategy",
            value="S",
            help="auto (default) follows what is measured; head, last:N, frozen:K, full or "
            "scratch, then +add, +lora or +gradual",
        ),
        BUDGET,
        Option(
            name="--lr",
            value="X",
            help="rate of the uppermost tuned layers (default: by rule)",
        ),
        MINUTES,
        DEVICE,
        PARALLEL,
        Option(name="--plan", value="FILE", help="follow a plan.toml; other options given win"),
        SET,
        Option(
            name="--dry-run",
            help="show the plan with time, memory and disk, and stop; --out FILE.toml keeps it",
        ),
        TEST,
        LABEL,
        TEXT,
        TASK,
        GROUP,
        KIND,
        RELABEL,
        FIX,
        STRICT,
        Option(
            name="--track",
            value="NAME,...",
            help="curves of the training in tensorboard, wandb, mlflow ...",
        ),
        Option(name="--out", value="RUN", help="run folder to make (default runs/<name of DATA>)"),
        SEED,
        JSON,
        QUIET,
        DEBUG,
        HELP,
    ),
    examples=(
        ("warmstart fit photos/", "photos/<class>/*.jpg"),
        ("warmstart fit labels.csv --label species --test later.csv", ""),
        ("warmstart fit photos/ --strategy last:4 --dry-run", "see the plan first"),
    ),
)

CHECK = Verb(
    name="check",
    arguments=("DATA",),
    needs=("the labelled images",),
    short="look for problems in the data and say what to expect",
    about=(
        "Says whether this network and these images belong together, with the evidence, and "
        "what is wrong with the data: copies, leaks, label issues, shortcuts. Trains nothing "
        "and changes none of your files."
    ),
    options=(
        START,
        ARCH,
        Option(
            name="--budget",
            value="B",
            choices=("fast", "balanced"),
            help="fast keeps to what one look gives; balanced (default) runs controls too",
        ),
        Option(name="--test", value="DATA", help="images that the test would be made on"),
        LABEL,
        TEXT,
        TASK,
        GROUP,
        KIND,
        RELABEL,
        FIX,
        STRICT,
        Option(name="--out", value="FOLDER", help="folder for evidence, findings, label issues"),
        SEED,
        JSON,
        QUIET,
        DEBUG,
        HELP,
    ),
    examples=(
        ("warmstart check photos/", ""),
        ("warmstart check photos/ --out problems", "lists to correct"),
        ("warmstart fit photos/ --relabel problems/label_issues.csv", ""),
    ),
)

RANK = Verb(
    name="rank",
    arguments=("DATA",),
    needs=("the labelled images",),
    short="find out which network suits labelled images",
    about=(
        "Looks at DATA once with each network and measures, on images held out, how often a "
        "new output on it is right. Networks whose difference could be chance are called ties. "
        "Nothing is trained or written; a later fit goes on from the same look."
    ),
    options=(
        Option(
            name="--starts",
            value="A,B,...",
            help="networks as --start of fit takes them; a file of weights with its design as "
            "FILE@timm:NAME (default: those on this computer, at most 6)",
        ),
        LABEL,
        TASK,
        GROUP,
        READ_ALL,
        SEED,
        JSON,
        QUIET,
        DEBUG,
        HELP,
    ),
    examples=(
        ("warmstart rank photos/ --starts lite0,lite1,timm:resnet18", ""),
        ("warmstart rank photos/ --starts lite0,my.safetensors@timm:resnet18", ""),
    ),
)

AUDIT = Verb(
    name="audit",
    arguments=("MODEL", "[DATA]"),
    needs=("a model trained elsewhere",),
    short="judge a model that was trained elsewhere",
    about=(
        "With DATA, labelled images: how often MODEL is right and how far that can be trusted, "
        "leaks, each class, whether it is as sure as it is right. With --base: what moved, "
        "tensor by tensor. MODEL is a file of weights (.safetensors, .pt, .pth, .bin) with --arch, "
        "an ONNX file, a folder of the Hugging Face hub, a run folder, or the name of a start."
    ),
    options=(
        Option(name="--base", value="START", help="what MODEL was made from"),
        Option(
            name="--arch",
            value="NAME",
            help="its design: timm:NAME, torchvision:NAME or transformers:FOLDER",
        ),
        Option(
            name="--labels",
            value="FILE",
            help="names of its outputs in their order: one a line, or JSON",
        ),
        Option(name="--train", value="DATA", help="what it was trained on, to look for leaks"),
        LABEL,
        GROUP,
        Option(name="--size", value="PX", help="image size that it takes: 224 or 224x320"),
        Option(name="--mean", value="X,...", help="what is taken off values 0 to 1"),
        Option(name="--std", value="X,...", help="what they are then divided by"),
        JSON,
        QUIET,
        DEBUG,
        HELP,
    ),
    examples=(
        ("warmstart audit best.pt photos/ --arch timm:resnet18", ""),
        ("warmstart audit model.onnx test/ --train train/", ""),
        ("warmstart audit tuned.safetensors --base timm:resnet18", "what moved"),
    ),
)

STARTS = Verb(
    name="starts",
    arguments=("[WORD]",),
    needs=(),
    short="list the networks on this computer to begin from",
    about=(
        "Lists the networks that have already learnt from many other images and can be used "
        "here without a download; with WORD, those whose name holds it."
    ),
    options=(JSON, DEBUG, HELP),
    examples=(
        ("warmstart starts", ""),
        ("warmstart fit photos/ --start lite2", "begin from one of them"),
    ),
)

CACHE = Verb(
    name="cache",
    arguments=("info|clear",),
    needs=("what to do",),
    short="show or empty the store of computed features",
    about=(
        "What a network sees in an image is computed once and kept, so that the next run on "
        "the same images is quick. info says how much is kept; clear deletes it. No run folder "
        "needs it."
    ),
    options=(JSON, DEBUG, HELP),
    examples=(("warmstart cache info", ""), ("warmstart cache clear", "")),
)

COMPLETION = Verb(
    name="completion",
    arguments=("bash|zsh|fish",),
    needs=("the name of your shell",),
    short="let the Tab key complete verbs and options",
    about=(
        "Prints a script that lets your shell complete verbs, options and their values; it starts "
        "no program while you type. Put into ~/.bashrc or ~/.zshrc: "
        'eval "$(warmstart completion bash)"; into config.fish: warmstart completion fish | source.'
    ),
    options=(JSON, DEBUG, HELP),
    examples=(
        ("warmstart completion bash", ""),
        ("warmstart completion zsh > _warmstart", "into a folder of $fpath"),
    ),
)

_ALL = (
    FIT, RESUME, CHECK, PREDICT, EVALUATE, COMPARE, RANK, AUDIT, EXPORT, SUGGEST, SERVE, STUDIO,
    REPORT, STARTS, CACHE, COMPLETION,
)  # fmt: skip
VERBS = {verb.name: verb for verb in _ALL}
