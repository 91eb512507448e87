"""Every verb and option of this version: one table that parsing, help and hints read."""

from __future__ import annotations

from warmstart.cli.options import (
    ARCH,
    BASE,
    BUDGET,
    DEBUG,
    DEVICE,
    FIX,
    GROUP,
    HELP,
    IGNORE,
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
    STRICT,
    TASK,
    TEST,
    TEXT,
    Option,
    Verb,
)

# ---- The verbs that take the folder of a run.


RESUME = Verb(
    name="resume",
    arguments=("RUN",),
    needs=("the folder of a run that was stopped",),
    short="go on with a run that was stopped or killed",
    about=(
        "Goes on in RUN from where it was left. The result is the one that the run would have "
        "had without the break, to the last digit; images, weights and versions must be what "
        "they were. A run that is done is shown again."
    ),
    options=(JSON, QUIET, DEBUG, HELP),
    examples=(("warmstart resume runs/photos", ""), ("warmstart resume runs/latest", "")),
)


PREDICT = Verb(
    name="predict",
    arguments=("RUN", "PATH..."),
    needs=("the folder that `warmstart fit` wrote", "the images to name"),
    short="name the class of new images",
    about=(
        "Says for each image which class it shows and how likely that is. A folder stands for "
        "the images in and below it. The model may also be not sure, or find an image unlike "
        "all that it learnt from."
    ),
    options=(
        Option(name="--json", help="one JSON document a line, one line an image"),
        DEBUG,
        HELP,
    ),
    examples=(
        ("warmstart predict runs/photos new.jpg", "one image"),
        ("warmstart predict runs/photos inbox/ --json > labels.jsonl", ""),
        ('warmstart predict runs/mails "Where is it?"', "a text"),
    ),
)


EVALUATE = Verb(
    name="evaluate",
    arguments=("RUN", "DATA"),
    needs=("the folder that `warmstart fit` wrote", "other labelled images"),
    short="measure a finished model on other labelled images",
    about=(
        "Counts how often a finished model is right on labelled images that it did not learn "
        "from. DATA is laid out as for fit, with the same class names; if it has a test/ part, "
        "only that is used."
    ),
    options=(LABEL, GROUP, TEXT, JSON, DEBUG, HELP),
    examples=(
        ("warmstart evaluate runs/photos later-photos/", ""),
        ("warmstart evaluate runs/photos later.csv --label species --json", ""),
    ),
)


COMPARE = Verb(
    name="compare",
    arguments=("RUN|DATA...",),
    needs=("finished runs, or labelled images and --strategies",),
    short="compare runs, or strategies, on the same images",
    about=(
        "Compares finished runs on the images that all of them held out: the difference of each "
        "pair with its interval, ties called ties, and how soon each was near its end. With "
        "--strategies each of them is run on DATA first, into a run folder of its own; a RUN may "
        "stand beside DATA. The options below say how, as for fit."
    ),
    options=(
        Option(
            name="--strategies",
            value="A,B",
            help="run these on DATA first, such as head,full,scratch (scratch shows what the "
            "start is worth)",
        ),
        BASE,
        ARCH,
        BUDGET,
        Option(name="--minutes", value="M", help="time for all of them, in equal parts"),
        DEVICE,
        SET,
        TEST,
        LABEL,
        TASK,
        GROUP,
        RELABEL,
        FIX,
        READ_ALL,
        SEED,
        JSON,
        QUIET,
        DEBUG,
        HELP,
    ),
    examples=(
        ("warmstart compare runs/photos runs/photos-2", ""),
        ("warmstart compare photos/ --strategies head,full,scratch", ""),
    ),
)


EXPORT = Verb(
    name="export",
    arguments=("RUN",),
    needs=("the folder that `warmstart fit` wrote",),
    short="write a model for other programs (ONNX ...)",
    about=(
        "Writes the model of RUN into a folder that needs no warmstart: the network, its labels, "
        "a card, and a script that uses it. It is compared with the model on images of the run, "
        "in a process of its own, before it is in its place. timm and transformers hold one "
        "output on the last layer: where the model has more, its output is fitted anew there, "
        "and what that is worth is measured."
    ),
    options=(
        Option(
            name="--to",
            value="FORMAT",
            choices=("onnx", "torch", "timm", "transformers", "openvino"),
            help="onnx, torch (torch.export), timm, transformers or openvino",
        ),
        Option(name="--out", value="FOLDER", help="folder to make (default RUN/export/FORMAT)"),
        Option(
            name="--int8",
            help="onnx in 8-bit numbers: a quarter of the size; says what it costs in accuracy",
        ),
        Option(
            name="--pixels",
            help="take 8-bit images of the right size; scaling is inside (onnx, torch, openvino)",
        ),
        Option(name="--data", value="DATA", help="the run's images, where they have moved"),
        Option(name="--test", value="DATA", help="its test images, where they were given apart"),
        JSON,
        QUIET,
        DEBUG,
        HELP,
    ),
    examples=(
        ("warmstart export runs/photos --to onnx", ""),
        ("warmstart export runs/photos --to onnx --int8 --pixels --out phone", ""),
        ("warmstart export runs/photos --to transformers", ""),
    ),
)


SUGGEST = Verb(
    name="suggest",
    arguments=("RUN", "UNLABELLED..."),
    needs=("the folder that `warmstart fit` wrote", "images without a label"),
    short="choose the images to label next",
    about=(
        "Chooses from UNLABELLED, images or folders of them, those whose labels should teach "
        "the model most: it is in doubt about them, and they differ from each other. Says what "
        "that should bring, where the run has measured it. Images that the run's data holds "
        "already, and exact copies, are left out."
    ),
    options=(
        Option(name="--count", value="N", help="how many images to choose (default 20)"),
        Option(
            name="--out",
            value="FILE.csv",
            help="write a table of path, label (empty, to be filled in) and suggested",
        ),
        JSON,
        QUIET,
        DEBUG,
        HELP,
    ),
    examples=(
        ("warmstart suggest runs/photos inbox/", ""),
        ("warmstart suggest runs/photos inbox/ --count 50 --out inbox/next.csv", ""),
    ),
)


SERVE = Verb(
    name="serve",
    arguments=("RUN",),
    needs=("the folder that `warmstart fit` wrote",),
    short="a page and an HTTP API for a finished model",
    about=(
        "Answers on this computer alone: a page to drop, paste or photograph an image on, and "
        "an HTTP API beside it (/docs lists it). Ctrl-C ends it when all that has come is "
        "answered. What it needs beside the rest (fastapi) is named where it is missing."
    ),
    options=(
        Option(
            name="--host",
            value="H",
            help="where to listen (default 127.0.0.1: this computer alone; 0.0.0.0: everywhere)",
        ),
        Option(name="--port", value="N", help="port (default 8000; 0: any that is free)"),
        Option(
            name="--token",
            value="T",
            help="secret that every request must bring; better in WARMSTART_TOKEN, where "
            "other users of this computer do not see it",
        ),
        Option(
            name="--allow-host",
            value="NAME",
            is_many=True,
            help="name that the server is called by, such as models.example.org",
        ),
        Option(name="--open", help="open the page in the browser"),
        JSON,
        DEBUG,
        HELP,
    ),
    examples=(
        ("warmstart serve runs/photos --open", ""),
        ("warmstart serve runs/latest --host 0.0.0.0 --port 8080", "for other computers"),
    ),
)


REPORT = Verb(
    name="report",
    arguments=("RUN",),
    needs=("the folder that `warmstart fit` wrote",),
    short="write the report of a run again, and open it",
    about=(
        "Writes RUN/report.html from the files in RUN: one page that needs nothing else. fit "
        "has written it already; again is for runs of an older version. Pictures are shown "
        "where the images still are where they were, unchanged."
    ),
    options=(Option(name="--open", help="show it in the browser"), JSON, DEBUG, HELP),
    examples=(
        ("warmstart report runs/latest --open", ""),
        ("warmstart report runs/photos --json", "where it is, as JSON"),
    ),
)


# ---- The verb that is a page of its own.


STUDIO = Verb(
    name="studio",
    arguments=("[DATA]",),
    needs=(),
    short="the whole job in a page on this computer",
    about=(
        "Opens a page in the browser: drop pictures on it, let it learn, see which it gets wrong "
        "and which labels look wrong, correct them, learn again, take the model home. DATA, laid "
        "out as for fit, is copied into the studio's folder; your own files are never changed. "
        "The same command opens the studio again as it was left. Only this computer reaches it. "
        "What it needs beside the rest (fastapi) is named where it is missing."
    ),
    options=(
        Option(name="--out", value="FOLDER", help="the studio's folder (default studio/<name>)"),
        BASE,
        LABEL,
        TASK,
        GROUP,
        Option(name="--port", value="N", help="port (default 8001; 0: any that is free)"),
        Option(name="--no-open", help="do not open the browser"),
        JSON,
        DEBUG,
        HELP,
    ),
    examples=(
        ("warmstart studio photos/", ""),
        ("warmstart studio", "begin with nothing"),
        ("warmstart studio --out studio/untitled", "open that again"),
    ),
)


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
        BASE,
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
        IGNORE,
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
        BASE,
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
        IGNORE,
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
            name="--models",
            value="A,B,...",
            help="networks as --base of fit takes them; a file of weights with its design as "
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
        ("warmstart rank photos/ --models lite0,lite1,timm:resnet18", ""),
        ("warmstart rank photos/ --models lite0,my.safetensors@timm:resnet18", ""),
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
        Option(name="--base", value="NAME", help="what MODEL was made from"),
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

MODELS = Verb(
    name="models",
    arguments=("[WORD]",),
    needs=(),
    short="list the networks on this computer to begin from",
    about=(
        "Lists the networks that have already learnt from many other images and can be used "
        "here without a download; with WORD, those whose name holds it."
    ),
    options=(JSON, DEBUG, HELP),
    examples=(
        ("warmstart models", ""),
        ("warmstart fit photos/ --base lite2", "begin from one of them"),
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
    FIT,
    RESUME,
    CHECK,
    PREDICT,
    EVALUATE,
    COMPARE,
    RANK,
    AUDIT,
    EXPORT,
    SUGGEST,
    SERVE,
    STUDIO,
    REPORT,
    MODELS,
    CACHE,
    COMPLETION,
)
VERBS = {verb.name: verb for verb in _ALL}
