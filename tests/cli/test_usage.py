"""Every misuse of the command line: one line on stderr, exit code 2, nothing on stdout."""

import pytest

from warmstart.cli.main import main
from warmstart.cli.verbs import all_verbs

VERBS = {verb.name: verb for verb in all_verbs()}

FIT = "Usage: warmstart fit DATA [options]"
PREDICT = "Usage: warmstart predict RUN PATH... [options]"
EVALUATE = "Usage: warmstart evaluate RUN DATA [options]"
EPOCHS = "Here it is --set training.epochs=N (10 is usual)."
BATCH = "Here it is --set training.batch_size=16 (see --dry-run for all choices)."
CHOSEN = "Not needed: warmstart chooses it."

MISUSES = {
    # verbs
    "train photos": "unknown verb `train`. Here it is `fit`.",
    "run photos": "unknown verb `run`. Here it is `fit`.",
    "launch photos": "unknown verb `launch`. Here it is `fit`.",
    "finetune photos": "unknown verb `finetune`. Here it is `fit`.",
    "lr_find photos": "unknown verb `lr_find`. Here it is `fit DATA --dry-run`.",
    "val runs/x": "unknown verb `val`. Here it is `evaluate`.",
    "eval runs/x": "unknown verb `eval`. Here it is `evaluate`.",
    "test runs/x": "unknown verb `test`. Here it is `evaluate`.",
    "infer runs/x": "unknown verb `infer`. Here it is `predict`.",
    "fitt photos": "unknown verb `fitt`. Did you mean `fit`?",
    "predit runs/x": "unknown verb `predit`. Did you mean `predict`?",
    "xyzzy": f"unknown verb `xyzzy`. This version (0.1.0) has {', '.join(VERBS)}.",
    "sample:digits": "`sample:digits` is not a verb. "
    "To fine-tune on it: warmstart fit sample:digits",
    "--seed 3 fit photos": "a verb comes first, its options after it: warmstart fit DATA --seed 3",
    "--json": "a verb comes first, its options after it: warmstart fit DATA --seed 3",
    # arguments
    "fit": f"fit needs DATA, the labelled images. {FIT}",
    "fit a b": f"`b` is one argument too many. {FIT}",
    "fit -- -a -b": f"`-b` is one argument too many. {FIT}",
    "predict": f"predict needs RUN, the folder that `warmstart fit` wrote. {PREDICT}",
    "predict runs/x": f"predict needs PATH, the images to classify. {PREDICT}",
    "evaluate runs/x": f"evaluate needs DATA, other labelled images. {EVALUATE}",
    "suggest runs/x": "suggest needs UNLABELLED, images without a label. "
    "Usage: warmstart suggest RUN UNLABELLED... [options]",
    "suggest runs/x in --count 0": "--count 0: it needs a whole number, 1 or more.",
    "suggest runs/x in --count=-3": "--count -3: it needs a whole number, 1 or more.",
    "suggest runs/x in --count few": "--count few: it needs a whole number, 1 or more.",
    "suggest runs/x --images in": "unknown option --images. "
    "UNLABELLED needs no option: warmstart suggest RUN UNLABELLED...",
    "suggest runs/x in --output o.csv": "unknown option --output. Here it is --out.",
    "cache": "cache needs info|clear, what to do. Usage: warmstart cache info|clear [options]",
    "cache clean": "cache clean is not one of info, clear. Did you mean clear?",
    "cache burn": "cache burn is not one of info, clear.",
    "rank": "rank needs DATA, the labelled images. Usage: warmstart rank DATA [options]",
    # values
    "rank photos --models ,": "--models needs a value: --models A,B,...",
    "fit photos --budget quick": "--budget quick is not one of fast, balanced, thorough.",
    "fit photos --budget balance": "--budget balance is not one of fast, balanced, thorough. "
    "Did you mean balanced?",
    "fit . --strategy best": "--strategy best: best is not a word of it; it takes auto, "
    "head, last:N, frozen:K, full or scratch, then +add, +lora or +gradual.",
    "fit photos --seed abc": "--seed abc: it needs a whole number, 0 or more.",
    "fit photos --seed=-1": "--seed -1: it needs a whole number, 0 or more.",
    "fit photos --seed 1.5": "--seed 1.5: it needs a whole number, 0 or more.",
    "fit photos --seed": "--seed needs a value: --seed N",
    "fit photos --out --json": "--out needs a value: --out RUN",
    "fit photos --out=": "--out needs a value: --out RUN",
    "fit photos --strategy": "--strategy needs a value: --strategy S",
    "fit photos --json=yes": "--json is a switch and takes no value.",
    # options by another name
    "fit photos --model resnet18": "unknown option --model. Here it is --base.",
    "fit photos --model_name_or_path x": "unknown option --model_name_or_path. Here it is --base.",
    "fit photos --backbone=x": "unknown option --backbone. Here it is --base.",
    "fit photos --output_dir x": "unknown option --output_dir. Here it is --out.",
    "fit photos --project x": "unknown option --project. Here it is --out.",
    "fit photos -o x": "unknown option -o. Here it is --out.",
    "fit --data photos": "unknown option --data. DATA needs no option: warmstart fit DATA",
    "fit --train_dir photos": "unknown option --train_dir. "
    "DATA needs no option: warmstart fit DATA",
    "fit --dataset=photos": "unknown option --dataset. DATA needs no option: warmstart fit DATA",
    "fit photos --random_seed 3": "unknown option --random_seed. Here it is --seed.",
    "predict --model runs/x a.jpg": "unknown option --model. "
    "RUN needs no option: warmstart predict RUN PATH...",
    "predict runs/x --source a.jpg": "unknown option --source. "
    "PATH needs no option: warmstart predict RUN PATH...",
    "predict runs/x a.jpg --output o": "unknown option --output. "
    "The predictions go to stdout; write them to a file with > FILE.",
    "rank photos --base lite0": "unknown option --base. Here it is --models.",
    "rank --data photos": "unknown option --data. DATA needs no option: warmstart rank DATA",
    "fit photos --models a,b": "unknown option --models. It is an option of `rank`, not of `fit`.",
    # options that nothing here needs, or that are still to come
    "fit photos --lr_find": "unknown option --lr_find. A rule sets the learning rate "
    "(--dry-run says why), --lr overrides it; compare_learning_rates compares three in Python: "
    "docs/notebook.md.",
    "fit photos --learning_rate 0.1": "unknown option --learning_rate. Here it is --lr.",
    "fit photos --epochs 5": f"unknown option --epochs. {EPOCHS}",
    "fit photos --batch-size 5": f"unknown option --batch-size. {BATCH}",
    "fit photos -b 5": f"unknown option -b. {BATCH}",
    "fit photos -b5": f"unknown option -b5. {BATCH}",
    "fit photos --workers 5": f"unknown option --workers. {CHOSEN}",
    "fit photos --patience 5": f"unknown option --patience. {CHOSEN}",
    "fit photos --img_size 5": "unknown option --img_size. "
    "The base model has its image size; set another one with --set input.size=PX.",
    "fit photos --val-split 0.2": "unknown option --val-split. Not needed: accuracy is estimated "
    "inside the training images, or on a val/ folder where there is one.",
    "fit photos --gpu": "unknown option --gpu. Here it is --device cuda.",
    "fit photos --time-limit 5": "unknown option --time-limit. Here it is --minutes.",
    "fit photos --minutes none": "--minutes none: it needs a number above 0, such as 5.",
    "fit photos --device tpu": "--device tpu is not one of auto, cpu, cuda, mps.",
    "predict runs/photos a.jpg --device cuda": "unknown option --device. Only `fit` uses another "
    "device, for training; the rest runs on the CPU.",
    "fit photos --exist-ok": "unknown option --exist-ok. A run folder is never overwritten; "
    "omit --out to create a new one.",
    "fit photos --resume": "unknown option --resume. Here it is `warmstart resume RUN`.",
    "fit photos --resume_from_checkpoint runs/x": "unknown option --resume_from_checkpoint. "
    "Here it is `warmstart resume RUN`.",
    "continue runs/x": "unknown verb `continue`. Here it is `resume`.",
    "resume": "resume needs RUN, the folder of a run that was stopped. "
    "Usage: warmstart resume RUN [options]",
    "resume a b": "`b` is one argument too many. Usage: warmstart resume RUN [options]",
    "resume --out runs/x": "unknown option --out. RUN needs no option: warmstart resume RUN",
    "resume runs/x --epochs 5": "unknown option --epochs. "
    "`warmstart resume --help` lists its options.",
    "check photos --xyzzy": "unknown option --xyzzy. `warmstart check --help` lists its options.",
    "check --data photos": "unknown option --data. DATA needs no option: warmstart check DATA",
    # misspelt and foreign options
    "fit photos --buget fast": "unknown option --buget. Did you mean --budget?",
    "fit photos --bud fast": "unknown option --bud. Did you mean --budget?",
    "fit photos --learning-rte 1": "unknown option --learning-rte. Here it is --lr.",
    "fit photos --xyzzy": "unknown option --xyzzy. `warmstart fit --help` lists its options.",
    "predict runs/x a.jpg --budget fast": "unknown option --budget. "
    "It is an option of `fit`, not of `predict`.",
    "evaluate runs/x photos -v": "unknown option -v. "
    "Here --debug shows the traceback of an error; progress is always shown.",
    # key=value
    "fit data=photos": "unknown argument data=photos. DATA needs no option: warmstart fit DATA",
    "fit photos model=resnet18": "unknown argument model=resnet18. Here it is --base resnet18",
    "fit photos seed=3": "unknown argument seed=3. Here it is --seed 3",
    "fit photos epochs=3": f"unknown argument epochs=3. {EPOCHS}",
}


@pytest.mark.parametrize("command", MISUSES)
def test_a_misuse_is_answered_with_one_line(command, capsys):
    assert main(command.split(" ")) == 2
    out, err = capsys.readouterr()
    assert err == f"warmstart: {MISUSES[command]}\n"
    assert out == ""
    assert "Traceback" not in err


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


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (
            "pipeline",
            "--parallel pipeline: it takes data, fsdp, or pipeline:N for N processes.",
        ),
        (
            "pipeline:4",
            "--parallel pipeline:4 needs 4 processes, and 1 runs; start it with torchrun "
            "--nproc-per-node 4 -m -- warmstart fit ...",
        ),
    ],
)
def test_processes_are_as_many_as_the_pipeline_needs(value, says, capsys, tmp_path):
    assert main(["fit", str(tmp_path), "--parallel", value]) == 2
    assert says in " ".join(capsys.readouterr().err.split())
