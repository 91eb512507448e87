"""Law 9 from the outside: what users get wrong is one line, exit 2, and nothing is made."""

from __future__ import annotations

import ast
import gc
import io
import os
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import audio_clips
import warmstart
from hue_images import fill
from warmstart.cli.main import main


def bomb(width, height):
    """A PNG whose header promises far more pixels than it holds."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


class Code:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return (os.mkdir, ("made-by-a-pickle",))


def world(root, finished):
    """Everything the commands below name."""
    fill(root / "photos", {"blue": 3, "red": 3})
    fill(root / "one-class", {"blue": 3})
    fill(root / "single", {"blue": 3, "red": 1})
    fill(root / "strangers", {"blue": 2, "violet": 2})
    fill(root / "parts" / "train", {"blue": 3, "red": 3})
    fill(root / "parts" / "test", {"violet": 3})
    (root / "empty").mkdir()
    (root / "no-images" / "a").mkdir(parents=True)
    (root / "no-images" / "a" / "notes.txt").write_text("dear")
    fill(root / "mixed", {"blue": 3, "red": 3})
    for path in (root / "mixed" / "red").iterdir():
        path.write_bytes(bomb(60_000, 60_000))
    one = (root / "photos" / "blue" / "000.png").read_bytes()
    with zipfile.ZipFile(root / "climbs.zip", "w") as archive:
        for name in ("a/1.png", "a/2.png", "../b/1.png", "b/2.png"):
            archive.writestr(name, one)
    with tarfile.open(root / "climbs.tar", "w") as archive:
        for name in ("a/1.png", "a/2.png", "b/../../escaped.png"):
            info = tarfile.TarInfo(name)
            info.size = len(one)
            archive.addfile(info, io.BytesIO(one))
    (root / "torn.zip").write_bytes(b"PK\x03\x04 and no more")
    (root / "table.csv").write_text(
        "file,kind\n"
        + "".join(f"photos/{k}/00{n}.png,{k}\n" for k in ("blue", "red") for n in range(3))
    )
    (root / "lost.csv").write_text("file,kind\nnowhere/1.png,a\nnowhere/2.png,b\n")
    (root / "letter.txt").write_text("dear")
    audio_clips.fill(root / "clips", {"hiss": 4, "note": 4})
    audio_clips.fill(root / "one-clip", {"hiss": 4, "note": 1})
    audio_clips.fill(root / "empty-clips", {"hiss": 4, "note": 4})
    for path in (root / "empty-clips").rglob("*.wav"):
        path.write_bytes(audio_clips.wav([]))
    audio_clips.fill(root / "phone", {"hiss": 4, "note": 4})
    for path in (root / "phone").rglob("*.wav"):
        path.write_bytes(b"\0\0\0\x20ftypM4A " + bytes(40))
    save_file({"fc.weight": torch.zeros(2, 2)}, root / "other.safetensors")
    (root / "torn.safetensors").write_bytes(b"\x10")
    torch.save(Code(), root / "code.pt")
    (root / "used").mkdir()
    (root / "used" / "letter.txt").write_text("dear")
    (root / "finished").symlink_to(finished.path)


COMMANDS = {
    "no such folder": ("fit nowhere", "nowhere does not exist"),
    "a misspelt folder": ("fit photo", "did you mean photos"),
    "an empty folder": ("fit empty", "empty"),
    "no images": ("fit no-images", "no-images"),
    "one class": ("fit one-class", "one class"),
    "a class of one": ("fit single", "has 1 training image"),
    "an unknown class in the test part": ("fit parts", "violet"),
    "an unknown class in --test": ("fit photos --test strangers", "violet"),
    "no such --test": ("fit photos --test nowhere", "nowhere does not exist"),
    "--test beside a test part": ("fit parts --test photos", "test set"),
    "one image": ("fit photos/blue/000.png", "is one file"),
    "a text": ("fit letter.txt", "of a kind that is not read"),
    "a zip that climbs out": ("fit climbs.zip", "climbs.zip"),
    "a tar that climbs out": ("fit climbs.tar", "climbs.tar"),
    "a torn zip": ("fit torn.zip", "torn.zip"),
    "an address": ("fit https://example.org/photos.zip", "download it"),
    "no such sample": ("fit sample:nothing", "nothing"),
    "an unknown column": ("fit table.csv --label species", "species"),
    "an unknown group": ("fit table.csv --label kind --group person", "person"),
    "a column of a folder": ("fit photos --label kind", "is not a table"),
    "lost files": ("fit lost.csv --label kind", "lost.csv"),
    "an unknown start": ("fit photos --base efficientnet-b9", "is not known"),
    "a start without its prefix": ("fit photos --base resnet18", "timm:resnet18"),
    "weights without a design": ("fit photos --base other.safetensors", "add --arch"),
    "weights of another design": (
        "fit photos --base other.safetensors --arch timm:resnet18",
        "other.safetensors",
    ),
    "torn weights": ("fit photos --base torn.safetensors --arch timm:resnet18", "torn"),
    "no such weights": ("fit photos --base no.pt --arch timm:resnet18", "does not exist"),
    "an unknown design": ("fit photos --base other.safetensors --arch timm:nope", "nope"),
    "weights with code": ("fit photos --base code.pt --arch timm:resnet18", "code.pt"),
    "a folder in use": ("fit photos --out used", "exists and is not empty"),
    "a finished run": ("fit photos --out finished", "exists and is not empty"),
    "a file as folder": ("fit photos --out letter.txt", "exists and is not empty"),
    "a file as parent": ("fit photos --out letter.txt/run", "cannot be written"),
    "a name too long": (f"fit photos --out {'n' * 300}", "cannot be written"),
    "an unknown tracker": ("fit photos --track tensorbord", "Did you mean tensorboard?"),
    "an unknown strategy": ("fit photos --strategy deep", "deep is not a word of it"),
    "two depths": ("fit photos --strategy full+head", "full and head are two depths"),
    "too many layers": ("fit photos --strategy last:40", "use last:18 or full"),
    "nothing to tune": ("fit photos --strategy head+lora", "head leaves no block to fine-tune"),
    "a rate for no steps": ("fit photos --lr 0.1", "nothing is trained step by step"),
    "a plan that is none": ("fit photos --plan photos/blue/000.png", "cannot be read as text"),
    "a plan that is not there": ("fit photos --plan p.toml", "--plan p.toml does not exist"),
    "a setting of nothing": ("fit photos --set training.epoch=9", "did you mean training.epochs?"),
    "a block that is not there": (
        "fit photos --strategy full --set block.99.lr=1",
        "block.99",
    ),
    "an input too small": ("fit photos --strategy full --set input.size=9", "16 to 1024 px"),
    "a dry run into a folder": ("fit photos --dry-run --out runs/x", "such as plan.toml"),
    "a class of one clip": ("fit one-clip", "has 1 training clip"),
    "one clip": ("fit clips/hiss/000.wav", "is one file"),
    "clips of nothing": ("fit empty-clips", "holds no sound (0 samples)"),
    "clips of a telephone": ("fit phone", "is an M4A, AAC or video file"),
    "pictures called sounds": ("fit photos --kind audio", "photos/ holds no clip"),
    "sounds called pictures": ("fit clips --kind image", "clips/ holds no image"),
    "a rate that hears nothing": ("fit clips --set input.sample_rate=7", "from 2000 to 48000"),
    "a clip of no length": ("fit clips --set input.seconds=0", "a number from 0.05 to 60"),
    "a setting of sounds for pictures": ("fit photos --set input.n_mels=64", "holds images, not"),
    "an audit of nothing": ("audit none.pt --base lite0", "none.pt does not exist"),
    "an audit without a base": ("audit finished", "--base"),
    "a seed too large": ("fit photos --seed 99999999999", "--seed"),
    "a studio of nothing": ("studio nowhere --no-open", "nowhere does not exist"),
    "a studio in another folder": ("studio --out photos --no-open", "holds something else"),
    "a studio at no port": ("studio --port 70000", "--port 70000"),
    "serve without a run": ("serve", "serve needs RUN"),
    "serve of nothing": ("serve nowhere --port 0", "nowhere does not exist"),
    "serve of what is no run": ("serve photos --port 0", "not a finished run folder"),
    "serve at no port": ("serve finished --port 70000", "--port 70000"),
    "predict without a run": ("predict photos photos/blue/000.png", "not a finished run folder"),
    "predict from nowhere": ("predict nowhere a.png", "nowhere does not exist"),
    "predict of an empty folder": ("predict finished empty", "holds no images"),
    "predict of nothing readable": ("predict finished letter.txt nowhere.png", "no image could"),
    "evaluate on an unknown class": ("evaluate finished strangers", "violet"),
    "evaluate on nothing": ("evaluate finished nowhere", "nowhere does not exist"),
    "evaluate without a run": ("evaluate photos photos", "not a finished run folder"),
    "evaluate on the unreadable": ("evaluate finished no-images", "no-images"),
    "resume without a run": ("resume", "resume needs RUN"),
    "resume of nowhere": ("resume nowhere", "nowhere does not exist"),
    "resume of what is no run": ("resume photos", "photos has no request.json"),
    "report without a run": ("report", "report needs RUN"),
    "report of nowhere": ("report nowhere", "nowhere does not exist"),
    "report of what is no run": ("report photos", "photos has no summary.json"),
    "rank without data": ("rank", "rank needs DATA"),
    "rank of nothing": ("rank nowhere --models lite0", "nowhere does not exist"),
    "rank of unknown starts": ("rank photos --models efficientnet-b9,x", "is not known"),
    "rank of a file without its design": ("rank photos --models other.safetensors", "add --arch"),
    "auto beside a design": ("fit photos --base auto --arch timm:resnet18", "--base auto"),
}


def snapshot(root):
    """Every path below a folder, without the feature cache, and when it last changed."""
    paths = (p for p in sorted(root.rglob("*")) if "cache" not in p.relative_to(root).parts)
    return {str(p): (p.lstat().st_mtime_ns, p.lstat().st_size) for p in paths}


@pytest.fixture(scope="module")
def place(tmp_path_factory, finished):
    root = tmp_path_factory.mktemp("world")
    world(root, finished)
    return root


@pytest.fixture(autouse=True)
def _as_the_process_was(monkeypatch, place):
    """`main` settles the environment and the collector for a process of its own."""
    for name in ("MKL_CBWR", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(place)
    yield
    gc.unfreeze()
    gc.enable()


@pytest.mark.parametrize(("words", "says"), COMMANDS.values(), ids=COMMANDS.keys())
def test_a_mistake_is_one_line_and_changes_nothing(words, says, place, finished, capsys):
    before, run = snapshot(place), snapshot(finished.path)
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("warmstart: ")]
    assert len(lines) == 1, err
    assert lines[0] == err.splitlines()[-1]
    assert says in lines[0]
    assert "Traceback" not in err
    assert "bug" not in err
    assert not out or words.startswith("predict")
    assert snapshot(place) == before
    assert snapshot(finished.path) == run


def test_weights_with_code_are_called_so(place, capsys):
    main(["fit", "photos", "--base", "code.pt", "--arch", "timm:resnet18"])
    assert "holds code" in capsys.readouterr().err


def test_no_file_escapes_an_archive(place):
    for name in ("climbs.zip", "climbs.tar"):
        main(["fit", name, "-q"])
    assert not (place / "made-by-a-pickle").exists()
    assert not (place.parent / "b").exists()
    assert not (place.parent / "escaped.png").exists()


def test_a_class_of_bombs_fails_before_anything_is_learnt(place, capsys, tmp_path):
    assert main(["fit", "mixed", "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert "red" in err.splitlines()[-1]
    assert (tmp_path / "run" / "FAILED").exists()


def test_a_bomb_is_left_out_by_its_header_alone(place, tmp_path, capsys, monkeypatch):
    data = fill(tmp_path / "photos", {"blue": 5, "red": 5})
    (data / "red" / "bomb.png").write_bytes(bomb(60_000, 60_000))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert main(["fit", str(data), "--budget", "fast", "--out", str(tmp_path / "run")]) in (0, 3)
    run = warmstart.api.run.Run.open(tmp_path / "run")
    (finding,) = [f for f in run.summary.findings if f.kind == "unreadable"]
    assert finding.items == ("red/bomb.png: has 3,600 megapixels; the limit is 64",)
    assert "Traceback" not in capsys.readouterr().err


# ---- the messages themselves -------------------------------------------------------------

SOURCES = sorted(Path(warmstart.__file__).parents[1].glob("warmstart*/**/*.py"))


def messages():
    """(file, line, text) of each message of a raised error of ours, as far as it is literal."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
                continue
            if not ast.unparse(node.exc.func).endswith("Error") or not node.exc.args:
                continue
            for block in ast.walk(node.exc.args[0]):
                if isinstance(block, ast.Constant) and isinstance(block.value, str):
                    yield path, node.lineno, block.value


def test_every_message_is_one_line_without_shouting():
    for path, line, text in messages():
        assert "\n" not in text, f"{path.name}:{line}"
        assert "!" not in text.replace("!=", ""), f"{path.name}:{line}"
        assert not {"invalid", "illegal", "fatal"} & set(text.lower().split()), (
            f"{path.name}:{line}"
        )


def test_only_errors_of_ours_and_those_of_python_are_raised():
    ours = {n for n in vars(warmstart.errors) if n.endswith("Error")}
    python = {"ValueError", "KeyError", "AttributeError", "TypeError", "AssertionError"}
    known = ours | python | {"EngineError", "LinAlgError"}
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                name = ast.unparse(node.exc.func).split(".")[-1]
                if name.endswith("Error"):
                    assert name in known, f"{path.name}:{node.lineno}: {name}"
