"""The verbs that take the folder of a run."""

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
    LABEL,
    QUIET,
    READ_ALL,
    RELABEL,
    SEED,
    SET,
    START,
    TASK,
    TEST,
    TEXT,
    Option,
    Verb,
)

__all__ = ["COMPARE", "EVALUATE", "EXPORT", "PREDICT", "REPORT", "RESUME", "SERVE", "SUGGEST"]

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
        START,
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
