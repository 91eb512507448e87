"""predict.py: some 30 lines that use an export without warmstart.

`prepare(path)` gives an image as the network wants it, `answer(pixels)` logits and
probabilities of a batch. What ships is what is checked: `clean` runs this very file.
"""

from __future__ import annotations

from string import Template

from warmstart.delivery.export import sounds
from warmstart.delivery.export.texts import text_script
from warmstart.delivery.export.values import values_script
from warmstart.records import (
    ExportFormat,
    Inputs,
    Preprocessing,
    TableInputs,
    Task,
    TensorInputs,
    TextInputs,
    WaveInputs,
    pictures,
)

NAME = "predict.py"
MODEL = {"onnx": "model.onnx", "torch": "model.pt2", "openvino": "model.xml"}

_SCRIPT = Template('''\
"""python predict.py $example ...  (needs $needs)"""
import json, pathlib, sys
import numpy as np
$imports
from PIL import Image, ImageOps

HERE = pathlib.Path(__file__).resolve().parent
LABELS = json.loads((HERE / "labels.json").read_text("utf-8"))
PREP = json.loads((HERE / "preprocess.json").read_text("utf-8"))
$load

def prepare(path):  # -> (H, W, C) uint8
$prepare

def answer(pixels):  # (N, H, W, C) uint8 -> logits, probabilities, (N, classes) each
$answer

if __name__ == "__main__":
    for path in sys.argv[1:] or sys.exit(__doc__):
        try:
            p = np.asarray(answer(prepare(path)[None])[1])[0]
            print(path, $shown, sep="  ")
        except OSError as error:
            print(f"{path} cannot be read: {error}", file=sys.stderr)
''')

_OPENED = """\
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")
"""
_CUT = """\
    (h, w), side, (W, H) = PREP["size"], PREP["resize"], image.size
$sides
    left, top = round((wide - w) / 2) * W / wide, round((high - h) / 2) * H / high
    box = left, top, min(left + w * W / wide, W), min(top + h * H / high, H)
    bands = [$bands]
    return np.concatenate([np.asarray(b, np.uint8).reshape(h, w, -1) for b in bands], axis=2)"""
_RESIZED = "{}.resize((w, h), Image.Resampling.$filter, box=box)"
_BANDS_APART = f"{_RESIZED.format('b')} for b in image.split()"  # else alpha weighs the colours
_FLATTEN = """\
    white = Image.new("RGBA", image.size, "white")
    image = Image.alpha_composite(white, image).convert("$mode")
"""
_SHORT = """\
    s = max(side / min(W, H), w / W, h / H)
    wide, high = max(int(W * s + 1e-6), w), max(int(H * s + 1e-6), h)"""
_SQUEEZED = "    wide, high = max(side, w), max(side, h)"
_BANDS = """\
    raise SystemExit("bands: scale each to 0..255 by PREP['ranges'], resize; then call answer()")"""

_SCALED = """\
    x = (np.float32(pixels) / 255 - np.float32(PREP["mean"])) / np.float32(PREP["std"])
    x = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
"""
_AS_TENSOR = "    with torch.inference_mode():\n"
_LOGITS = "        logits = {}\n    return logits.numpy(), logits.softmax(1).numpy()"

_NEEDS = {
    "onnx": "onnxruntime", "torch": "torch", "openvino": "openvino", "timm": "timm",
    "transformers": "transformers, timm, torchvision",
}  # fmt: skip
_IMPORTS = {
    "onnx": "import onnxruntime", "torch": "import torch", "openvino": "import openvino",
    "timm": "import timm, torch",
    "transformers": "import torch\n"
    "from transformers import AutoImageProcessor, AutoModelForImageClassification",
}  # fmt: skip
_LOAD = {
    "onnx": 'session = onnxruntime.InferenceSession(str(HERE / "model.onnx"), '
    'providers=["CPUExecutionProvider"])',
    "torch": 'model = torch.export.load(HERE / "model.pt2").module()',
    "openvino": "# By itself OpenVINO computes in bfloat16 where the processor can (AMX): "
    "faster, and\n# probabilities are off by up to 0.03.\n"
    'f32 = {"INFERENCE_PRECISION_HINT": "f32"}\n'
    'model = openvino.Core().compile_model(HERE / "model.xml", "CPU", f32)',
    "timm": 'model = timm.create_model(f"local-dir:{HERE}", pretrained=True).eval()',
    "transformers": "processor = AutoImageProcessor.from_pretrained(HERE)\n"
    "model = AutoModelForImageClassification.from_pretrained(HERE).eval()",
}
_ANSWER = {
    "onnx": '    return session.run(["logits", "probabilities"], {{"{name}": {x}}})',
    "torch": _AS_TENSOR + "        return [out.numpy() for out in model(torch.from_numpy({x}))]",
    "openvino": '    found = model([{x}])\n    return found["logits"], found["probabilities"]',
    "timm": _AS_TENSOR + _LOGITS.format("model(torch.from_numpy({x}))"),
    "transformers": _AS_TENSOR + _LOGITS.format("model(torch.from_numpy({x})).logits"),
}


_VALUE = {  # both are the value: callers of `answer` need not know the task
    "onnx": '    return session.run(["value"], {{"{name}": {x}}}) * 2',
    "torch": _AS_TENSOR + "        return [model(torch.from_numpy({x}))[0].numpy()] * 2",
    "openvino": '    return [model([{x}])["value"]] * 2',
}
_SHOWN: dict[Task, str] = {
    **dict.fromkeys(
        ("classify", "multilabel"),
        '*(f"{LABELS[i]} {p[i]:.1%}" for i in p.argsort()[::-1][:3])',
    ),
    "regress": 'f"{LABELS[0]} {p[0]:.6g}"',
}


def predict_script(
    to: ExportFormat, inputs: Inputs, input_name: str, task: Task = "classify"
) -> str:
    """The text of predict.py for a format; `input_name` is "pixels" where scaling is inside.

    >>> prep = Preprocessing(size=(8, 8), resize=8, mean=(0.5,) * 3, std=(0.5,) * 3)
    >>> text = predict_script("onnx", prep, "images")
    >>> compile(text, "predict.py", "exec") is not None, len(text.split("\\n")) < 40
    (True, True)
    """
    takes_pixels, answers = input_name == "pixels", _VALUE if task == "regress" else _ANSWER
    if isinstance(inputs, (TableInputs, TensorInputs, WaveInputs)):
        x = "np.ascontiguousarray(values)"
        return values_script(inputs, {
            "needs": _NEEDS[to], "imports": _IMPORTS[to], "load": _LOAD[to],
            "answer": answers[to].format(name=input_name, x=x), "shown": _SHOWN[task],
            "answers": "the values twice" if task == "regress" else "logits, probabilities",
        })  # fmt: skip
    if isinstance(inputs, TextInputs):
        return text_script({
            "needs": _NEEDS[to], "imports": _IMPORTS[to], "load": _LOAD[to],
            "answer": answers[to].format(name=input_name, x="x"), "shown": _SHOWN[task],
        })  # fmt: skip
    prep = pictures(inputs)
    x = "np.ascontiguousarray(pixels)" if takes_pixels else "x"
    body = ("" if takes_pixels else _SCALED) + answers[to].format(name=input_name, x=x)
    return _SCRIPT.substitute(
        needs=f"{_NEEDS[to]}, numpy, pillow" + (f", {sounds.NEEDS}" if prep.sound else ""),
        imports="\n".join([_IMPORTS[to]] + ([sounds.IMPORTS] if prep.sound else [])),
        example="clip.wav" if prep.sound else "photo.jpg",
        load=_LOAD[to], prepare=_prepare(prep), answer=body, shown=_SHOWN[task],
    )  # fmt: skip


def _prepare(prep: Preprocessing) -> str:
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    if prep.ranges or prep.channels not in modes:
        return _BANDS
    has_alpha = prep.channels == 4
    bands = Template(_BANDS_APART if has_alpha else _RESIZED.format("image"))
    lead = sounds.DRAWN if prep.sound else _OPENED + ("" if has_alpha else _FLATTEN)
    return Template(lead + _CUT).substitute(
        mode=modes[prep.channels],
        sides=_SQUEEZED if prep.squash else _SHORT,
        bands=bands.substitute(filter=prep.interpolation.upper()),
    )
