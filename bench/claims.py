"""What is said of fine-tuning, claim by claim, with what was measured here."""

from __future__ import annotations

from collections.abc import Callable

from bench import results
from bench.markdown import mean, percent, points, source, table
from bench.tables import count, rows, seconds


def frozen_speed() -> str:
    """Freezing the lower layers, as speed."""
    summary = results.read("train_speed")["summary"]
    return (
        f"Fine-tuning all blocks of the default base model runs at "
        f"{summary['live_full images/s']:.0f} images/s on two cores; fine-tuning the last six from "
        f"cached features at {summary['cached images/s']:.0f} images/s, "
        f"{summary['cached over live']:.1f} times as fast {source('train_speed')}."
    )


def frozen_moves() -> str:
    """Freezing, as it is done elsewhere."""
    result = [row for row in rows("freezing") if "frozen_weights" in row]
    theirs = [row for row in result if "warmstart" not in row["library"] + row["recipe"]]
    moved = [row for row in theirs if row["frozen_statistics_moved"]]
    ours = [row for row in result if row not in theirs]
    if any(row["frozen_weights_moved"] or row["frozen_statistics_moved"] for row in ours):
        raise ValueError("something that warmstart froze has moved")
    return (
        f"Of {len(theirs)} common recipes, {len(moved)} changed the BatchNorm statistics of layers "
        f"they call frozen and {sum(row['frozen_weights_moved'] > 0 for row in theirs)} of them "
        f"the weights too; warmstart's {len(ours)} changed nothing {source('freezing')}."
    )


def all_but_last() -> str:
    """A linear probe: accuracy and time."""
    result = rows("accuracy")
    timed = seconds()
    both = [name for name, method in timed if method == "fastai5"]
    ratio = mean(timed[name, "fastai5"] / timed[name, "fast"] for name in both)
    return (
        f"On {count(len(result))} sets, a multi-layer linear probe reaches a mean accuracy of "
        f"{percent(mean(r['accuracy'] for r in result))}, logistic regression on the last layer "
        f"{percent(mean(r['onelook'] for r in result))}. fastai's `fine_tune(5)` takes "
        f"{ratio:.0f} times as long on the {len(both)} sets where both were timed "
        f"{source('accuracy', 'paired')}."
    )


def old_output() -> str:
    """What an old output is worth where classes have the same name."""
    summary = results.read("prior")["summary"]
    none, stored = (
        float(summary[f"another place, prior {how}"].split()[1].rstrip(","))
        for how in ("none", "every depth")
    )
    return (
        f"Where old and new images come from different sources and classes share their names, "
        f"starting from the old head gave an accuracy of {percent(stored)} instead of "
        f"{percent(none)} "
        f"{source('prior')}."
    )


def rates() -> str:
    """The rule's rate, ten times it, a hundred times."""
    result = rows("forgetting")
    lines = []
    for factor, title in ((1.0, "default"), (10.0, "10 ×"), (100.0, "100 ×")):
        own = [row for row in result if row["factor"] == factor]
        change = mean(row["accuracy_after"] - row["accuracy_before"] for row in own)
        lines.append(
            [
                title,
                len(own),
                f"{mean(row['least_cka'] for row in own):.2f}",
                points(change),
                sum(row["heard"] for row in own),
            ]
        )
    heads = [
        "learning rate",
        "runs",
        "lowest CKA of a block",
        "change of held-out accuracy",
        "guard alarms",
    ]
    return f"{table(heads, lines)}\n\n{source('forgetting')}"


def near_and_far() -> str:
    """The mean of the nearer half of the sets, and of the farther."""
    far = {row["set"]: row["domain_gap"] for row in rows("distances")}
    both = {row["set"]: row for row in rows("accuracy-balanced")}
    order = sorted(far, key=far.__getitem__)

    def gain(names: list[str]) -> str:
        return points(mean(both[n]["accuracy"] - both[n]["onelook"] for n in names))

    half = len(order) // 2
    return (
        f"Gain of `warmstart fit` over logistic regression on the last layer: {gain(order[:half])} "
        f"on the {half} sets with the smallest domain gap, {gain(order[half:])} on the "
        f"{len(order) - half} others."
    )


def no_knowledge() -> str:
    """Starts whose weights were shuffled."""
    result = [row for row in rows("verdict") if row["what"] == "no knowledge"]
    fair = sum(row["verdict"] == "no-transfer" for row in result)
    true = [row for row in rows("verdict") if row["what"] == "true labels"]
    wrongly = sum(row["verdict"] == "no-transfer" for row in true)
    return (
        f"With shuffled weights, {fair} of {len(result)} checks gave `no-transfer`; "
        f"with the pretrained weights, {wrongly} of {len(true)} "
        f"{source('verdict')}."
    )


def small() -> str:
    """Accuracy from a few hundred images."""
    result = rows("accuracy-balanced")
    return (
        f"On {len(result)} sets with 58 to 1,000 training images, `warmstart fit` reached a mean "
        f"test accuracy of {percent(mean(row['accuracy'] for row in result))} "
        f"{source('accuracy-balanced')}."
    )


MADE: dict[str, Callable[[], str]] = {
    "frozen-speed": frozen_speed,
    "frozen-moves": frozen_moves,
    "all-but-last": all_but_last,
    "old-output": old_output,
    "rates": rates,
    "near-and-far": near_and_far,
    "no-knowledge": no_knowledge,
    "small": small,
}
