"""predict.py of a model whose inputs are numbers: rows of a table, or tensors as they are.

`prepare` gives one example as the network wants it, from a row {column: cell} as
`data.cells.encode_row` does, or from a .npy file; `answer` takes a batch of them.
"""

from __future__ import annotations

from string import Template

from warmstart.records import TableInputs, TensorInputs
from warmstart.records.columns import MISSING, SPAN

_SCRIPT = Template('''\
"""python predict.py $example ...  (needs $needs, numpy)"""
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


def values_script(inputs: TableInputs | TensorInputs, parts: dict[str, str]) -> str:
    """The text of predict.py; `parts` are those that depend on the format and the task."""
    is_table = isinstance(inputs, TableInputs)
    return _SCRIPT.substitute(
        parts, example="new.csv" if is_table else "signal.npy",
        prepare=_ROWS if is_table else _TENSORS,
    )  # fmt: skip
