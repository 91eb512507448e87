"""Every verb and option: the one table that parsing, help and hints read."""

from __future__ import annotations

from dataclasses import dataclass

from warmstart.exporting.registry import FORMATS
from warmstart.formatting import joined


@dataclass(frozen=True, slots=True)
class Option:
    """One option; the signature is that of the help: "--seed N" or "-q, --quiet"."""

    signature: str
    help: str
    words: str = ""  # its choices
    is_many: bool = False  # may be repeated

    @property
    def name(self) -> str:
        return self.signature.split(", ")[-1].split()[0]

    @property
    def short(self) -> str | None:
        return self.signature.split(", ")[0] if ", " in self.signature else None

    @property
    def value(self) -> str | None:
        """What the help calls its value; None for a switch."""
        return self.signature.partition(f"{self.name} ")[2] or None

    @property
    def choices(self) -> tuple[str, ...]:
        return tuple(self.words.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """One verb: its name and arguments, as in "predict RUN PATH...", and its options.

    `needs` describes each required argument. An argument that ends in "..." may be repeated; one
    in brackets is optional.
    """

    words: str
    needs: tuple[str, ...]
    short: str  # the line of `warmstart --help`
    about: str  # the first paragraph of `warmstart VERB --help`
    options: tuple[Option, ...]
    examples: tuple[str, ...]  # a purpose follows the command as a comment

    @property
    def name(self) -> str:
        return self.words.split()[0]

    @property
    def arguments(self) -> tuple[str, ...]:
        return tuple(self.words.split()[1:])

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that the argument takes where it is one of a few: info, clear."""
        first = self.arguments[0] if self.arguments else ""
        return tuple(first.split("|")) if first.islower() and "|" in first else ()


# ---- The formats of `export`, by what they hold.

_TO = [f"{to.name} ({to.hint})" if to.hint else to.name for to in FORMATS.values()]
_INT8 = joined([to.name for to in FORMATS.values() if to.has_int8])
_SINGLE_LAYER = joined([to.name for to in FORMATS.values() if to.is_single_layer])
_ANY_HEAD = ", ".join(to.name for to in FORMATS.values() if not to.is_single_layer)

# ---- Options of several verbs.

BASE = Option("--base NAME", "base model (default lite0), or auto: the best one here")
ARCH = Option("--arch NAME", "architecture, where --base is a file of weights")
BUDGET = Option(
    "--budget B", "how much to try: fast, balanced (default) or thorough", "fast balanced thorough"
)
MINUTES = Option("--minutes M", "time for everything; the plan is cut to fit")
DEVICE = Option(
    "--device D", "auto (default: a GPU if there is one), cpu, cuda or mps", "auto cpu cuda mps"
)
SET = Option(
    "--set PATH=V",
    "one value of the plan, such as training.epochs=20 or block.18.action=frozen",
    is_many=True,
)
TEST = Option("--test DATA", "test set: evaluate the finished model on it, once")
LABEL = Option("--label COLUMN", "column of the class, or several 0/1 columns: A,B")
TEXT = Option("--text COLUMN", "column of the texts")
TASK = Option(
    "--task T",
    "auto (default), classify, multilabel or regress (a number)",
    "auto classify multilabel regress",
)
GROUP = Option("--group COLUMN", "column of groups that are never split (a person, a visit)")
KIND = Option(
    "--kind K",
    "image, audio, text or table (default auto: detected)",
    "auto image audio text table",
)
RELABEL = Option(
    "--relabel FILE", "table of corrected labels (path,label); an empty label leaves the image out"
)
FIX = Option(
    "--fix",
    "leave out near-duplicates of test images, exact copies and conflicts; lists them in clean.csv",
)
IGNORE = Option("--ignore CODE,...", "findings not to report, such as WS102 (docs/findings.md)")
STRICT = Option(
    "--strict",
    "refuse unreadable files instead of leaving them out; exit with 4 if the result is not ready",
)
READ_ALL = Option("--strict", "refuse unreadable files instead of leaving them out")
SEED = Option("--seed N", "number that fixes every random draw (default 0)")
JSON = Option("--json", "print the result as JSON on stdout")
QUIET = Option("-q, --quiet", "no progress, only the result and errors")
DEBUG = Option("--debug", "show the traceback of an error")
HELP = Option("-h, --help", "show this text")
READING = (LABEL, TEXT, TASK, GROUP, KIND, RELABEL, FIX, IGNORE, STRICT)  # how DATA is read
PLAIN = (JSON, DEBUG, HELP)
COMMON = (JSON, QUIET, DEBUG, HELP)  # of verbs that show progress
RUN = "the folder that `warmstart fit` wrote"
DATA = "the labelled images"

_VERBS = (
    Verb(
        words="fit DATA",
        needs=(DATA,),
        short="fine-tune on labelled images, write a run folder",
        about="""Fine-tunes a base model on DATA: a folder with one sub-folder per class
        (photos/cat/1.jpg), a table of paths and classes, or a zip or tar of either. Writes a run
        folder with the model, its accuracy and the reason for every decision.""",
        options=(
            BASE,
            ARCH,
            Option(
                "--strategy S",
                "auto (default) decides by measurement; head, last:N, frozen:K, full or scratch, "
                "then +add, +lora or +gradual",
            ),
            BUDGET,
            Option("--lr X", "learning rate of the uppermost block (default: by rule)"),
            MINUTES,
            DEVICE,
            Option(
                "--parallel P",
                "processes share data (default); fsdp: weights too; pipeline:N: layers",
            ),
            Option("--plan FILE", "follow a plan.toml; other options override it"),
            SET,
            Option(
                "--dry-run",
                "show the plan with time, memory and disk, and stop; --out FILE.toml writes it",
            ),
            TEST,
            *READING,
            Option("--track NAME,...", "log curves to tensorboard, wandb, mlflow ..."),
            Option("--out RUN", "run folder to create (default runs/<name of DATA>)"),
            SEED,
            *COMMON,
        ),
        examples=(
            "warmstart fit photos/  # photos/<class>/*.jpg",
            "warmstart fit labels.csv --label species --test later.csv",
            "warmstart fit photos/ --strategy last:4 --dry-run  # see the plan first",
        ),
    ),
    Verb(
        words="resume RUN",
        needs=("the folder of a run that was stopped",),
        short="continue a run that was stopped or killed",
        about="""Continues RUN from where it stopped. The result is identical, to the last digit, to
        that of a run that was never stopped; images, weights and package versions must be the same.
        A finished run is shown again.""",
        options=COMMON,
        examples=("warmstart resume runs/photos", "warmstart resume runs/latest"),
    ),
    Verb(
        words="check DATA",
        needs=(DATA,),
        short="find problems in the data, predict what to expect",
        about="""Measures whether the base model suits the images and what is wrong with the data:
        near-duplicates, data leakage, label issues, spurious correlations. Trains nothing and
        changes none of your files.""",
        options=(
            BASE,
            ARCH,
            Option(
                "--budget B",
                "fast: one feature extraction; balanced (default) also runs controls",
                "fast balanced",
            ),
            Option("--test DATA", "test set to check against the training images"),
            *READING,
            Option("--out FOLDER", "folder for evidence, findings, label issues"),
            SEED,
            *COMMON,
        ),
        examples=(
            "warmstart check photos/",
            "warmstart check photos/ --out problems  # lists to correct",
            "warmstart fit photos/ --relabel problems/label_issues.csv",
        ),
    ),
    Verb(
        words="predict RUN PATH...",
        needs=(RUN, "the images to classify"),
        short="classify new images",
        about="""Prints the class of each image and its probability. A folder stands for the images
        in and below it. The model may also be uncertain, or report that an image is unlike the
        training images (out of distribution).""",
        options=(Option("--json", "JSON Lines: one document per image"), DEBUG, HELP),
        examples=(
            "warmstart predict runs/photos new.jpg  # one image",
            "warmstart predict runs/photos inbox/ --json > labels.jsonl",
            'warmstart predict runs/mails "Where is it?"  # a text',
        ),
    ),
    Verb(
        words="evaluate RUN DATA",
        needs=(RUN, "other labelled images"),
        short="evaluate a finished model on other labelled images",
        about="""Measures the accuracy of a finished model on labelled images that it was not
        trained on. DATA is laid out as for fit, with the same class names; if it has a test/
        folder, only that is used.""",
        options=(LABEL, GROUP, TEXT, *PLAIN),
        examples=(
            "warmstart evaluate runs/photos later-photos/",
            "warmstart evaluate runs/photos later.csv --label species --json",
        ),
    ),
    Verb(
        words="compare RUN|DATA...",
        needs=("finished runs, or labelled images and --strategies",),
        short="compare runs, or strategies, on the same images",
        about="""Compares finished runs on the images that all of them held out: the difference of
        each pair with its interval, ties, and how fast each run came near its end. With
        --strategies, each of them is first run on DATA, into a run folder each; a RUN may be named
        beside DATA. The other options say how, as for fit.""",
        options=(
            Option(
                "--strategies A,B",
                "run these on DATA first, such as head,full,scratch (scratch shows what the base "
                "model is worth)",
            ),
            BASE,
            ARCH,
            BUDGET,
            Option("--minutes M", "time for all of them, divided equally"),
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
            *COMMON,
        ),
        examples=(
            "warmstart compare runs/photos runs/photos-2",
            "warmstart compare photos/ --strategies head,full,scratch",
        ),
    ),
    Verb(
        words="rank DATA",
        needs=(DATA,),
        short="rank base models on your labelled images",
        about="""Extracts the features of DATA once with each base model and measures the held-out
        accuracy of a linear probe on them. Models whose difference could be chance are called ties.
        Nothing is fine-tuned or written; a later fit reuses the features.""",
        options=(
            Option(
                "--models A,B,...",
                "base models as --base of fit takes them; a file of weights with its architecture "
                "as FILE@timm:NAME (default: those on this computer, at most 6)",
            ),
            LABEL,
            TASK,
            GROUP,
            READ_ALL,
            SEED,
            *COMMON,
        ),
        examples=(
            "warmstart rank photos/ --models lite0,lite1,timm:resnet18",
            "warmstart rank photos/ --models lite0,my.safetensors@timm:resnet18",
        ),
    ),
    Verb(
        words="audit MODEL [DATA]",
        needs=("a model trained elsewhere",),
        short="judge a model that was trained elsewhere",
        about="""With DATA, labelled images: the accuracy of MODEL and how far to trust it, data
        leakage, each class, calibration. With --base: which weights changed, tensor by tensor.
        MODEL is a file of weights (.safetensors, .pt, .pth, .bin) with --arch, an ONNX file, a
        folder of the Hugging Face hub, a run folder, or the name of a base model.""",
        options=(
            Option("--base NAME", "what MODEL was fine-tuned from"),
            Option(
                "--arch NAME", "architecture: timm:NAME, torchvision:NAME or transformers:FOLDER"
            ),
            Option("--labels FILE", "names of the outputs in order: one per line, or JSON"),
            Option("--train DATA", "training images, to look for data leakage"),
            LABEL,
            GROUP,
            Option("--size PX", "input size: 224 or 224x320"),
            Option("--mean X,...", "mean to subtract from pixel values 0 to 1"),
            Option("--std X,...", "standard deviation to divide by"),
            *COMMON,
        ),
        examples=(
            "warmstart audit best.pt photos/ --arch timm:resnet18",
            "warmstart audit model.onnx test/ --train train/",
            "warmstart audit tuned.safetensors --base timm:resnet18  # what changed",
        ),
    ),
    Verb(
        words="export RUN",
        needs=(RUN,),
        short="export a model for other programs (ONNX ...)",
        about=f"""Writes the model of RUN into a folder that needs no warmstart: network, labels,
        card, and a script that predicts. A separate process compares it with the model on images of
        the run before the folder is moved into place. {_SINGLE_LAYER} hold one linear
        layer on the last features: a multi-layer head is refitted there as a single-layer head,
        with its own accuracy.""",
        options=(
            Option(
                "--to FORMAT",
                joined(_TO, "or"),
                " ".join(FORMATS),
            ),
            Option("--out FOLDER", "folder to create (default RUN/export/FORMAT)"),
            Option(
                "--int8", f"{_INT8} quantized to 8 bits: a quarter of the size; measures its cost"
            ),
            Option(
                "--pixels",
                f"take 8-bit images of the right size; scaling is inside ({_ANY_HEAD})",
            ),
            Option("--data DATA", "the run's images, if they have moved"),
            Option("--test DATA", "its test images, if they were named separately"),
            *COMMON,
        ),
        examples=(
            "warmstart export runs/photos --to onnx",
            "warmstart export runs/photos --to onnx --int8 --pixels --out phone",
            "warmstart export runs/photos --to transformers",
        ),
    ),
    Verb(
        words="suggest RUN UNLABELLED...",
        needs=(RUN, "images without a label"),
        short="choose the images to label next",
        about="""Active learning: chooses from UNLABELLED, images or folders of them, those whose
        labels should improve the model most: it is uncertain about them, and they differ from each
        other. Estimates the gain where the run has measured a learning curve. Images of the run's
        data and exact copies are left out.""",
        options=(
            Option("--count N", "how many images to choose (default 20)"),
            Option(
                "--out FILE.csv",
                "write a table of path, label (empty, to be filled in) and suggested",
            ),
            *COMMON,
        ),
        examples=(
            "warmstart suggest runs/photos inbox/",
            "warmstart suggest runs/photos inbox/ --count 50 --out inbox/next.csv",
        ),
    ),
    Verb(
        words="serve RUN",
        needs=(RUN,),
        short="serve a finished model: a page and an HTTP API",
        about="""Serves on this computer only: a page to drop, paste or photograph an image on, and
        an HTTP API (documented at /docs). Ctrl-C stops it when all requests are answered. Needs
        fastapi; a message says so if it is missing.""",
        options=(
            Option(
                "--host H",
                "where to listen (default 127.0.0.1: this computer only; 0.0.0.0: everywhere)",
            ),
            Option("--port N", "port (default 8000; 0: any that is free)"),
            Option(
                "--token T",
                "secret that every request must carry; better in WARMSTART_TOKEN, where other "
                "users of this computer do not see it",
            ),
            Option(
                "--allow-host NAME",
                "host name of the server, such as models.example.org",
                is_many=True,
            ),
            Option("--open", "open the page in the browser"),
            *PLAIN,
        ),
        examples=(
            "warmstart serve runs/photos --open",
            "warmstart serve runs/latest --host 0.0.0.0 --port 8080  # for other computers",
        ),
    ),
    Verb(
        words="studio [DATA]",
        needs=(),
        short="label, fine-tune and correct in the browser",
        about="""Opens a page in the browser: drop pictures on it, fine-tune, see the mistakes and
        the label issues, correct them, fine-tune again, download the model. DATA, laid out as for
        fit, is copied into the studio's folder; your files are never changed. The same command
        reopens the studio as you left it. Only this computer can reach it. Needs fastapi; a message
        says so if it is missing.""",
        options=(
            Option("--out FOLDER", "the studio's folder (default studio/<name>)"),
            BASE,
            LABEL,
            TASK,
            GROUP,
            Option("--port N", "port (default 8001; 0: any that is free)"),
            Option("--no-open", "do not open the browser"),
            *PLAIN,
        ),
        examples=(
            "warmstart studio photos/",
            "warmstart studio  # begin without images",
            "warmstart studio --out studio/untitled  # reopen it",
        ),
    ),
    Verb(
        words="report RUN",
        needs=(RUN,),
        short="write the report of a run again, and open it",
        about="""Writes RUN/report.html from the files in RUN: one self-contained page. fit has
        written it already; writing it again is for runs of an older version. Shows pictures of
        images that have not moved or changed.""",
        options=(Option("--open", "open it in the browser"), *PLAIN),
        examples=(
            "warmstart report runs/latest --open",
            "warmstart report runs/photos --json  # its path as JSON",
        ),
    ),
    Verb(
        words="models [WORD]",
        needs=(),
        short="list the base models on this computer",
        about="""Lists the pretrained networks that can be used here without a download; with WORD,
        those whose name contains it.""",
        options=PLAIN,
        examples=(
            "warmstart models",
            "warmstart fit photos/ --base lite2  # fine-tune one of them",
        ),
    ),
    Verb(
        words="cache info|clear",
        needs=("what to do",),
        short="show or clear the feature cache",
        about="""The features of an image are computed once and cached, so that the next run on the
        same images is fast. info shows the size of the cache; clear deletes it. No run folder needs
        it.""",
        options=PLAIN,
        examples=("warmstart cache info", "warmstart cache clear"),
    ),
    Verb(
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
    ),
)
VERBS = {verb.name: verb for verb in _VERBS}
