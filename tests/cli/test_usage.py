"""Every misuse of the command line: one line on stderr, exit code 2, nothing on stdout."""

import pytest

from warmstart.cli import NAMES
from warmstart.cli.main import main
from warmstart.cli.parse import parse

# A command, and its answer or the telling part of it.
MISUSES = {
    # verbs
    "train photos": "unknown verb `train`. Here it is `fit`.",
    "lr_find photos": "unknown verb `lr_find`. Here it is `fit DATA --dry-run`.",
    "eval runs/x": "unknown verb `eval`. Here it is `evaluate`.",
    "infer runs/x": "unknown verb `infer`. Here it is `predict`.",
    "continue runs/x": "unknown verb `continue`. Here it is `resume`.",
    "fitt photos": "unknown verb `fitt`. Did you mean `fit`?",
    "predit runs/x": "unknown verb `predit`. Did you mean `predict`?",
    "xyzzy": f"unknown verb `xyzzy`. This version (0.1.0) has {', '.join(NAMES)}.",
    "sample:digits": "is not a verb. To fine-tune on it: warmstart fit sample:digits",
    "--seed 3 fit photos": "a verb comes first, its options after it",
    "--json": "a verb comes first, its options after it",
    # arguments
    "fit": "fit needs DATA, the labelled images. Usage: warmstart fit DATA [options]",
    "fit a b": "`b` is one argument too many. Usage: warmstart fit DATA [options]",
    "fit -- -a -b": "`-b` is one argument too many.",
    "predict": "predict needs RUN, the folder that `warmstart fit` wrote.",
    "predict runs/x": "predict needs PATH, the images to classify.",
    "evaluate runs/x": "evaluate needs DATA, other labelled images.",
    "suggest runs/x": "suggest needs UNLABELLED, images without a label.",
    "cache": "cache needs info|clear, what to do. Usage: warmstart cache info|clear [options]",
    "cache clean": "cache clean is not one of info, clear. Did you mean clear?",
    "cache burn": "cache burn is not one of info, clear.",
    # values
    "suggest runs/x in --count 0": "--count 0: it needs a whole number, 1 or more.",
    "suggest runs/x in --count=-3": "--count -3: it needs a whole number, 1 or more.",
    "rank photos --models ,": "--models needs a value: --models A,B,...",
    "fit photos --track=,": "--track needs a value: --track NAME,...",
    "fit photos --budget quick": "--budget quick is not one of fast, balanced, thorough.",
    "fit photos --budget balance": "Did you mean balanced?",
    "fit . --strategy best": "--strategy best: best is not a word of it; it takes auto, head,",
    "fit photos --seed abc": "--seed abc: it needs a whole number, 0 or more.",
    "fit photos --seed=-1": "--seed -1: it needs a whole number, 0 or more.",
    "fit photos --seed 1.5": "--seed 1.5: it needs a whole number, 0 or more.",
    "fit photos --seed": "--seed needs a value: --seed N",
    "fit photos --out --json": "--out needs a value: --out RUN",
    "fit photos --out=": "--out needs a value: --out RUN",
    "fit photos --json=yes": "--json is a switch and takes no value.",
    "fit photos --lr fast": "--lr fast: it needs a number above 0, such as 0.0003.",
    "fit photos --lr 0": "--lr 0: it needs a number above 0",
    "fit photos --lr nan": "--lr nan: it needs a number above 0",
    "fit photos --lr inf": "--lr inf: it needs a number above 0",
    "fit photos --device tpu": "--device tpu is not one of auto, cpu, cuda, mps.",
    # options by another name
    "fit photos --model_name_or_path x": "unknown option --model_name_or_path. Here it is --base.",
    "fit photos --backbone=x": "unknown option --backbone. Here it is --base.",
    "fit photos -o x": "unknown option -o. Here it is --out.",
    "fit photos --config my.toml": "unknown option --config. Here it is --plan.",
    "fit photos --report_to wandb": "unknown option --report_to. Here it is --track.",
    "fit --train_dir photos": "--train_dir. DATA needs no option: warmstart fit DATA",
    "predict --model runs/x a.jpg": "RUN needs no option: warmstart predict RUN PATH...",
    "predict runs/x --source a.jpg": "PATH needs no option: warmstart predict RUN PATH...",
    "predict runs/x a.jpg --output o": "write them to a file with > FILE.",
    "suggest runs/x --images in": "UNLABELLED needs no option: warmstart suggest RUN UNLABELLED",
    "rank photos --base lite0": "unknown option --base. Here it is --models.",
    "fit photos --models a,b": "It is an option of `rank`, not of `fit`.",
    "predict runs/x a.jpg --budget fast": "It is an option of `fit`, not of `predict`.",
    "resume --out runs/x": "unknown option --out. RUN needs no option: warmstart resume RUN",
    # options that nothing here needs
    "fit photos --lr_find": "A rule sets the learning rate (--dry-run says why), --lr overrides",
    "fit photos --learning_rate 0.1": "unknown option --learning_rate. Here it is --lr.",
    "fit photos --epochs 5": "Here it is --set training.epochs=N (10 is usual).",
    "fit photos -b5": "unknown option -b5. Here it is --set training.batch_size=16 (see --dry-run",
    "fit photos --workers 5": "unknown option --workers. Not needed: warmstart chooses it.",
    "fit photos --img_size 5": "set another one with --set input.size=PX.",
    "fit photos --val-split 0.2": "Not needed: accuracy is estimated inside the training images",
    "fit photos --gpu": "unknown option --gpu. Here it is --device cuda.",
    "predict runs/photos a.jpg --device cuda": "Only `fit` uses another device, for training",
    "fit photos --exist-ok": "A run folder is never overwritten; omit --out to create a new one.",
    "fit photos --resume": "Here it is `warmstart resume RUN`.",
    "fit photos --freeze 10": "Here it is --strategy: head freezes all blocks, frozen:K the first",
    "fit photos --lora": "Here it is --strategy full+lora or last:N+lora.",
    "fit photos --augment": "Here it is --set training.crop=0.35 and --set training.flip=true",
    "fit photos --wandb": "unknown option --wandb. Here it is --track wandb.",
    # misspelt and foreign options
    "fit photos --bud fast": "unknown option --bud. Did you mean --budget?",
    "fit photos --learning-rte 1": "unknown option --learning-rte. Here it is --lr.",
    "check photos --xyzzy": "unknown option --xyzzy. `warmstart check --help` lists its options.",
    "evaluate runs/x photos -v": "Here --debug shows the traceback of an error",
    # key=value
    "fit data=photos": "unknown argument data=photos. DATA needs no option: warmstart fit DATA",
    "fit photos model=resnet18": "unknown argument model=resnet18. Here it is --base resnet18",
    "fit photos report_to=mlflow": "unknown argument report_to=mlflow. Here it is --track mlflow",
    "fit photos epochs=3": "unknown argument epochs=3. Here it is --set training.epochs=N",
    # several processes
    "fit . --parallel pipeline": "it takes data, fsdp, or pipeline:N for N processes.",
    "fit . --parallel pipeline:4": "needs 4 processes, and 1 runs; start it with torchrun",
}


@pytest.mark.parametrize("command", MISUSES)
def test_a_misuse_is_answered_with_one_line(command, capsys):
    assert main(command.split(" ")) == 2
    out, err = capsys.readouterr()
    *progress, line = err.splitlines()
    assert line.startswith("warmstart: ")
    assert MISUSES[command] in line
    assert (out, "Traceback" in err) == ("", False)
    assert not progress or "--parallel" in command


def test_a_path_in_place_of_a_verb_is_answered_with_the_command(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"warmstart: `{tmp_path}` is not a verb. To fine-tune on it: warmstart fit {tmp_path}\n"
    )


def test_a_file_whose_name_holds_an_equals_sign_is_data(tmp_path, monkeypatch, work):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data=photos").mkdir()
    assert main(["fit", "data=photos"]) == 0
    assert work.requests[0].data == "data=photos"


def test_debug_shows_the_traceback_of_a_misuse_too(capsys):
    assert main(["fit", "photos", "--seed", "abc", "--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("warmstart: --seed abc: it needs a whole number, 0 or more.\n")


def test_an_equals_sign_in_a_setting_is_no_misplaced_assignment():
    call = parse(["fit", "photos", "--set", "training.crop=1", "--set=training.flip=false"])
    assert call.many == {"--set": ("training.crop=1", "training.flip=false")}
    assert call.places == ("photos",)
