"""predict.py of a model whose inputs are numbers: rows of a table, tensors, samples of a clip.

`prepare` gives one example as the network wants it, from a row {column: cell} as
`data.cells.encode_row` does, from a .npy file, or from a clip as `data.waves` does; `answer`
takes a batch of them.
"""

from __future__ import annotations

from string import Template

from warmstart.delivery.export import sounds
from warmstart.records import TableInputs, TensorInputs, WaveInputs
from warmstart.records.columns import MISSING, SPAN
from warmstart.records.waves import LEAST_VARIANCE

_SCRIPT = Template('''\
"""python predict.py $example ...  (needs $needs)"""
import csv, json, pathlib, sys
import numpy as np
$imports

HERE = pathlib.Path(__file__).resolve().parent
LABELS = json.loads((HERE / "labels.json").read_text("utf-8"))
PREP = json.loads((HERE / "preprocess.json").read_text("utf-8"))
$load

$prepare

def answer(values):  # (N, ...) as `prepare` gives them -> $answers
$answer

if __name__ == "__main__":
    for path in sys.argv[1:] or sys.exit(__doc__):
        for name, example in examples(path):
            try:
                p = np.asarray(answer(prepare(example)[None])[1])[0]
                print(name, $shown, sep="  ")
            except (KeyError, OSError, ValueError) as error:
                print(f"{name} cannot be read: {error!r}", file=sys.stderr)
''')
_ROWS = f"""\
MISSING = {sorted(MISSING)!r}

def prepare(row):  # {{column: cell}} -> (F,) float32
    found = []
    for column in PREP["columns"]:
        cell = "" if row[column["name"]] is None else str(row[column["name"]]).strip()
        is_missing = cell.lower() in MISSING
        if column["kind"] == "category":
            found += [float(not is_missing and cell == value) for value in column["values"]]
        else:
            value = column["mean"] if is_missing else float(cell)
            scaled = (value - column["mean"]) / column["std"]
            found.append(min(max(scaled, -{SPAN}), {SPAN}))
        found += [float(is_missing)] * column["has_missing"]
    return np.float32(found)

def examples(path):
    with open(path, newline="", encoding="utf-8-sig") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            yield f"{{path}} line {{number}}", row"""
_TENSORS = """\
def prepare(path):  # -> an array of the shape that PREP names
    found = np.load(path, allow_pickle=False).astype(PREP["dtype"])
    if list(found.shape) != PREP["shape"]:
        raise ValueError(f"its shape is {found.shape}, not {PREP['shape']}")
    return found

def examples(path):
    yield path, path"""

_CLIPS = f"""\
def prepare(path):  # -> (n,) float32, the middle of the clip
    wave, rate = soundfile.read(path, dtype="float32", always_2d=True)
    wave, wanted = wave.mean(axis=1), PREP["rate"]
    if rate != wanted:
        ratio = Fraction(wanted, rate).limit_denominator(1000)
        wave = resample_poly(wave, ratio.numerator, ratio.denominator).astype(np.float32)
    n = round(wanted * PREP["seconds"])
    begin = max((len(wave) - n) // 2, 0)
    wave = wave[begin : begin + n]
    if PREP["is_scaled"]:
        wave = (wave - wave.mean()) / np.sqrt(wave.var() + {LEAST_VARIANCE})
    before = (n - len(wave) + 1) // 2  # a short clip lies amid silence
    return np.pad(wave, (before, n - len(wave) - before)).astype(np.float32)

def examples(path):
    yield path, path"""


def values_script(inputs: TableInputs | TensorInputs | WaveInputs, parts: dict[str, str]) -> str:
    """The text of predict.py; `parts` are those that depend on the format and the task."""
    if isinstance(inputs, WaveInputs):
        own = {
            "imports": f"{parts['imports']}\n{sounds.IMPORTS}", "example": "clip.wav",
            "needs": f"{parts['needs']}, numpy, {sounds.NEEDS}", "prepare": _CLIPS,
        }  # fmt: skip
    else:
        is_table = isinstance(inputs, TableInputs)
        own = {
            "example": "new.csv" if is_table else "signal.npy",
            "needs": f"{parts['needs']}, numpy", "prepare": _ROWS if is_table else _TENSORS,
        }  # fmt: skip
    return _SCRIPT.substitute({**parts, **own})
