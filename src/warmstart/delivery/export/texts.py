"""predict.py of a model of texts: tokens as `tokens.token_numbers` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from string import Template

_SCRIPT = Template('''\
"""python predict.py "a text" letter.txt ...  (needs $needs, numpy, tokenizers)"""
import json, pathlib, sys, unicodedata
import numpy as np
$imports
from tokenizers import Tokenizer

HERE = pathlib.Path(__file__).resolve().parent
LABELS = json.loads((HERE / "labels.json").read_text("utf-8"))
PREP = json.loads((HERE / "preprocess.json").read_text("utf-8"))
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
    found = tokenizer.encode(text)
    rows = np.full((-(-PREP["length"] // WINDOW), WINDOW), PAD, np.int32)
    for row, part in zip(rows, [found, *found.overflowing]):  # a long text goes on in windows
        row[: len(part.ids)] = part.ids
    return rows.reshape(-1)[: PREP["length"]]

def answer(rows):  # (N, length) int32 -> logits, probabilities, (N, classes) each
    used = max(np.flatnonzero((rows != PAD).any(axis=0)), default=1) + 1
    x = np.ascontiguousarray(rows if len(rows[0]) > WINDOW else rows[:, :used], np.int64)
$answer

if __name__ == "__main__":
    for text in sys.argv[1:] or sys.exit(__doc__):
        try:
            p = np.asarray(answer(prepare(text)[None])[1])[0]
            print(text, $shown, sep="  ")
        except (OSError, ValueError) as error:
            print(f"{text} cannot be read: {error}", file=sys.stderr)
''')


def text_script(told: Mapping[str, str]) -> str:
    """The script; `told` says what it needs, imports, loads, and how it answers and shows it."""
    return _SCRIPT.substitute(told)
