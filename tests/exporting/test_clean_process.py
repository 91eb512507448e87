"""The check in a process of its own, on scripts that are right, wrong and broken."""

import numpy as np
import pytest

from warmstart.errors import ExportError
from warmstart.exporting import clean_process
from warmstart.exporting.predict_script import NAME
from warmstart.records.inputs import Preprocessing

PREP = Preprocessing(size=(4, 4), resize=4, mean=(0.5,) * 3, std=(0.25,) * 3)
PIXELS = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
LOGITS = PIXELS.mean(axis=(1, 2)) / 50
HONEST = """
import numpy as np

def answer(pixels):
    logits = pixels.mean(axis=(1, 2)) / 50
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return logits, e / e.sum(axis=1, keepdims=True)
"""


def asked(folder, script, **options):
    (folder / NAME).write_text(script)
    result = clean_process.ask(folder, PIXELS)
    return clean_process.compare(result, LOGITS, "run", PREP, **options)


def test_an_honest_script_agrees(tmp_path):
    result = asked(tmp_path, HONEST)
    assert (result.n, result.same_labels, result.images) == (5, 5, "run")
    assert result.difference < 1e-6


def test_only_the_first_examples_are_told_of(tmp_path):
    assert asked(tmp_path, HONEST, n=2).n == 2


BAD = {
    "another answer": (HONEST.replace("/ 50", "/ 50 + [0, 0, 0.01]"), "a logit differs by 0.01"),
    "other shapes": (HONEST.replace("/ 50", "/ 50; logits = logits[:, :2]"), "gives"),
    "no numbers": (HONEST.replace("/ 50", "* np.nan"), "no numbers"),
    "answers that depend on the batch": (
        HONEST.replace("/ 50", "/ 50 + (len(pixels) == 1)"),
        "a logit differs by 1",
    ),
    "answers that hang on a smaller batch": (
        HONEST.replace("/ 50", "/ 50 + (len(pixels) == 3)"),
        "a logit differs by 1",
    ),
    "probabilities of something else": (
        HONEST.replace("return logits, e", "return logits, 0.5 * e"),
        "not those of its logits",
    ),
    "an import of warmstart": ("import warmstart\n" + HONEST, "does not run without warmstart"),
    "a broken script": (HONEST + "\nraise SystemExit('no such library')", "no such library"),
    "a processor of another kind": (
        HONEST + "\ndef processor(image, return_tensors):\n    import torch\n"
        "    return {'pixel_values': torch.zeros(1, 3, 4, 4)}",
        "prepares images differently",
    ),
}


@pytest.mark.parametrize(("script", "says"), BAD.values(), ids=BAD.keys())
def test_everything_else_is_refused(tmp_path, script, says):
    with pytest.raises(ExportError, match=says) as result:
        asked(tmp_path, script)
    assert str(result.value).endswith("nothing was written.")


def test_rounded_numbers_are_held_to_no_tolerance_but_to_the_rest(tmp_path):
    result = asked(tmp_path, HONEST.replace("/ 50", "/ 50 + [0, 0, 0.01]"), tolerance=None)
    assert result.difference == pytest.approx(0.01)
    assert result.tolerance is None


def test_a_script_that_never_ends_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(clean_process, "_MINUTES", 1 / 60)
    with pytest.raises(ExportError, match="gave no answer in"):
        asked(tmp_path, "while True:\n    pass")
