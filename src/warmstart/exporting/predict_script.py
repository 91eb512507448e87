"""predict.py: some 30 lines that use an export without warmstart.

`prepare(path)` returns an image as the network takes it, `answer(pixels)` logits and
probabilities of a batch. `export` checks itself by running this very file.
"""

from __future__ import annotations

from string import Template

from warmstart.exporting.format import ExportFormat
from warmstart.modalities.registry import modality_of
from warmstart.records.data import Task
from warmstart.records.inputs import LEAST_VARIANCE, MISSING, SPAN, Inputs, Preprocessing, pictures
from warmstart.tasks.registry import DEFAULT_TASK, TASKS

_FILES = """\
HERE = pathlib.Path(__file__).resolve().parent
LABELS = json.loads((HERE / "labels.json").read_text("utf-8"))
PREP = json.loads((HERE / "preprocess.json").read_text("utf-8"))"""

# ---- Lines of predict.py that compute the spectrogram of a clip, as `modalities.audio` does.

NEEDS = "scipy, soundfile"
IMPORTS = """\
from fractions import Fraction
import soundfile
from scipy.signal import resample_poly"""
SPECTROGRAM = """\
    wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    s, wave = PREP["sound"], wave.mean(axis=1)
    if rate != s["sample_rate"]:
        ratio = Fraction(s["sample_rate"], rate).limit_denominator(1000)
        wave = resample_poly(wave, ratio.numerator, ratio.denominator).astype(np.float32)
    n, hop, size = round(s["seconds"] * s["sample_rate"]), s["hop"], s["window"]
    cut = (len(wave) - n) // 2  # the middle of a long clip; a short one lies amid silence
    wave = wave[cut : cut + n] if cut >= 0 else np.pad(wave, (-cut, n - len(wave) + cut))
    wave = np.pad(wave, (size // 2, size - size // 2))
    frames = np.lib.stride_tricks.sliding_window_view(wave, size)[::hop][: max(n // hop, 1)]
    taper = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)).astype(np.float32)
    power = np.abs(np.fft.rfft(frames * taper, axis=1)) ** 2
    ends = 2595 * np.log10(1 + np.array([s["low"], s["high"]]) / 700)  # hertz to mel
    edges = 700 * (10 ** (np.linspace(*ends, s["mels"] + 2) / 2595) - 1)
    at, (low, mid, high) = np.fft.rfftfreq(size, 1 / s["sample_rate"]), (
        edges[k : k + s["mels"], None] for k in range(3))
    bank = np.maximum(0, np.minimum((at - low) / (mid - low), (high - at) / (high - mid)))
    for band in np.flatnonzero(bank.sum(axis=1) == 0):
        bank[band, np.abs(at - mid[band]).argmin()] = 1
    level = 10 * np.log10(np.maximum(bank @ power.T, 1e-20))
    share = np.clip(1 + (level - level.max()) / s["range_db"], 0, 1)
    image = Image.fromarray(np.rint(255 * share[::-1]).astype(np.uint8)).convert("$mode")
"""


# ---- predict.py of a model of texts: tokens as `modalities.text.token_numbers` makes them.

_TEXT_SCRIPT = Template('''\
"""python predict.py "a text" letter.txt ...  (needs $needs, numpy, tokenizers)"""
import json, pathlib, sys, unicodedata
import numpy as np
$imports
from tokenizers import Tokenizer

$files
WINDOW, PAD = min(PREP["length"], PREP["most"]), PREP["pad"]
tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
tokenizer.no_padding()
tokenizer.enable_truncation(WINDOW)
$load

def prepare(text):  # a text, or the path of a .txt file -> (length,) int32
    if text.lower().endswith(".txt"):
        text = pathlib.Path(text).read_text("utf-8-sig")
    text = " ".join(unicodedata.normalize("NFC", text.replace("\\0", "")).split())
    if not text:
        raise ValueError("it is empty")
    tokens = tokenizer.encode(text)
    rows = np.full((-(-PREP["length"] // WINDOW), WINDOW), PAD, np.int32)
    for row, window in zip(rows, [tokens, *tokens.overflowing]):  # a long text fills several
        row[: len(window.ids)] = window.ids
    return rows.reshape(-1)[: PREP["length"]]

def answer(rows):  # (N, length) int32 -> logits, probabilities, (N, classes) each
    used = max(np.flatnonzero((rows != PAD).any(axis=0)), default=1) + 1
    x = np.ascontiguousarray(rows if len(rows[0]) > WINDOW else rows[:, :used], np.int64)
$answer

if __name__ == "__main__":
    for text in sys.argv[1:] or sys.exit(__doc__):
        try:
            p = np.asarray(answer(prepare(text)[None])[1])[0]
            print(text, $line, sep="  ")
        except (OSError, ValueError) as error:
            print(f"{text} cannot be read: {error}", file=sys.stderr)
''')


# ---- predict.py of a model whose inputs are numbers: rows of a table, tensors, samples of a clip.
#
# `prepare` returns one example as the network takes it, from a row {column: cell} as
# `modalities.table.encode_row` does, a .npy file, or a clip as `modalities.audio` does;
# `answer` takes a batch of them.

_VALUES_SCRIPT = Template('''\
"""python predict.py $example ...  (needs $needs)"""
import csv, json, pathlib, sys
import numpy as np
$imports

$files
$load

$prepare

def answer(values):  # (N, ...) as `prepare` returns them -> $answers
$answer

if __name__ == "__main__":
    for path in sys.argv[1:] or sys.exit(__doc__):
        for name, example in examples(path):
            try:
                p = np.asarray(answer(prepare(example)[None])[1])[0]
                print(name, $line, sep="  ")
            except (KeyError, OSError, ValueError) as error:
                print(f"{name} cannot be read: {error!r}", file=sys.stderr)
''')
_ROWS = f"""\
MISSING = {sorted(MISSING)!r}

def prepare(row):  # {{column: cell}} -> (F,) float32
    values = []
    for column in PREP["columns"]:
        cell = "" if row[column["name"]] is None else str(row[column["name"]]).strip()
        is_missing = cell.lower() in MISSING
        if column["kind"] == "category":
            values += [float(not is_missing and cell == value) for value in column["values"]]
        else:
            value = column["mean"] if is_missing else float(cell)
            scaled = (value - column["mean"]) / column["std"]
            values.append(min(max(scaled, -{SPAN}), {SPAN}))
        values += [float(is_missing)] * column["has_missing"]
    return np.float32(values)

def examples(path):
    with open(path, newline="", encoding="utf-8-sig") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            yield f"{{path}} line {{number}}", row"""
_TENSORS = """\
def prepare(path):  # -> an array of the shape that PREP names
    tensor = np.load(path, allow_pickle=False).astype(PREP["dtype"])
    if list(tensor.shape) != PREP["shape"]:
        raise ValueError(f"its shape is {tensor.shape}, not {PREP['shape']}")
    return tensor

def examples(path):
    yield path, path"""

_CLIPS = f"""\
def prepare(path):  # -> (n,) float32, the middle of the clip
    wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    wave, target = wave.mean(axis=1), PREP["sample_rate"]
    if rate != target:
        ratio = Fraction(target, rate).limit_denominator(1000)
        wave = resample_poly(wave, ratio.numerator, ratio.denominator).astype(np.float32)
    n = round(target * PREP["seconds"])
    begin = max((len(wave) - n) // 2, 0)
    wave = wave[begin : begin + n]
    if PREP["is_scaled"]:
        wave = (wave - wave.mean()) / np.sqrt(wave.var() + {LEAST_VARIANCE})
    before = (n - len(wave) + 1) // 2  # a short clip lies amid silence
    return np.pad(wave, (before, n - len(wave) - before)).astype(np.float32)

def examples(path):
    yield path, path"""


NAME = "predict.py"

_SCRIPT = Template('''\
"""python predict.py $example ...  (needs $needs)"""
import json, pathlib, sys
import numpy as np
$imports
from PIL import Image, ImageOps

$files
$load

def prepare(path):  # -> (H, W, C) uint8
$prepare

def answer(pixels):  # (N, H, W, C) uint8 -> logits, probabilities, (N, classes) each
$answer

if __name__ == "__main__":
    for path in sys.argv[1:] or sys.exit(__doc__):
        try:
            p = np.asarray(answer(prepare(path)[None])[1])[0]
            print(path, $line, sep="  ")
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
_BEST = '*(f"{LABELS[i]} {p[i]:.1%}" for i in p.argsort()[::-1][:3])'
_NUMBER = 'f"{LABELS[0]} {p[0]:.6g}"'


def predict_script(
    to: ExportFormat, inputs: Inputs, input_name: str, task: Task = DEFAULT_TASK
) -> str:
    """The text of predict.py for a format; `input_name` is "pixels" where scaling is inside."""
    takes_pixels, has_numbers = input_name == "pixels", TASKS[task].has_numbers
    answer = to.value if has_numbers else to.answer
    needs, imports = to.needs, to.imports
    fields = {"needs": needs, "imports": imports, "load": to.load, "files": _FILES}
    fields["line"] = _NUMBER if has_numbers else _BEST
    modality = modality_of(inputs)
    if modality.has_tokens:
        return _TEXT_SCRIPT.substitute(fields, answer=answer.format(name=input_name, x="x"))
    sound = {"imports": f"{imports}\n{IMPORTS}", "example": modality.nouns.typed}
    if not modality.has_pixels:
        fields |= {
            "needs": f"{needs}, numpy",
            "example": modality.nouns.typed,
            "prepare": _ROWS if modality.form == "rows" else _TENSORS,
            "answer": answer.format(name=input_name, x="np.ascontiguousarray(values)"),
            "answers": "the values twice" if has_numbers else "logits, probabilities",
        }
        if modality.is_sound:
            fields |= {**sound, "needs": f"{needs}, numpy, {NEEDS}", "prepare": _CLIPS}
        return _VALUES_SCRIPT.substitute(fields)
    prep = pictures(inputs)
    x = "np.ascontiguousarray(pixels)" if takes_pixels else "x"
    fields |= {
        "needs": f"{needs}, numpy, pillow" + (f", {NEEDS}" if prep.sound else ""),
        "example": modality.nouns.typed,
        "prepare": _prepare(prep),
        "answer": ("" if takes_pixels else _SCALED) + answer.format(name=input_name, x=x),
        **(sound if prep.sound else {}),
    }
    return _SCRIPT.substitute(fields)


def _prepare(prep: Preprocessing) -> str:
    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    if prep.ranges or prep.channels not in modes:
        return _BANDS
    has_alpha = prep.channels == 4
    bands = Template(_BANDS_APART if has_alpha else _RESIZED.format("image"))
    lead = SPECTROGRAM if prep.sound else _OPENED + ("" if has_alpha else _FLATTEN)
    return Template(lead + _CUT).substitute(
        mode=modes[prep.channels],
        sides=_SQUEEZED if prep.squash else _SHORT,
        bands=bands.substitute(filter=prep.interpolation.upper()),
    )
