"""Tables of the documents: accuracy beside other tools, what each strategy costs, speed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from bench import results
from bench.markdown import bare, mean, percent, points, source, table, took

Rows = list[dict[str, Any]]
PEERS = {
    "onelook": "last-layer logistic regression, C by cross-validation",
    "fastai5": "fastai `fine_tune(5)`",
    "hf3": "transformers `Trainer`, 3 epochs",
    "expert30": "30 epochs of full fine-tuning by an expert's recipe",
}


def rows(name: str) -> Rows:
    """The rows of a kept result."""
    result: Rows = results.read(name)["rows"]
    return result


def _by_set(name: str) -> dict[str, dict[str, Any]]:
    return {row["set"]: row for row in rows(name)}


def seconds(threads: int = 2) -> dict[tuple[str, str], float]:
    """Wall seconds of whole commands, by set and method or budget."""
    return {
        (row["set"], row["method"]): row["seconds"]
        for row in rows("paired")
        if row["threads"] == threads
    }


PAIRED = {
    "fast": "`warmstart fit --budget fast`",
    "balanced": "`warmstart fit`",
    "thorough": "`warmstart fit --budget thorough`",
    **{name: PEERS[name] for name in ("fastai5", "expert30")},
}


def paired() -> str:
    """Whole commands one after the other, on two cores and on one."""
    columns = {
        (name, threads): {m: s for (one, m), s in seconds(threads).items() if one == name}
        for threads in (2, 1)
        for name in dict.fromkeys(name for name, _ in seconds(threads))
    }
    lines = [
        [title, *(took(result[m]) if m in result else "" for result in columns.values())]
        for m, title in PAIRED.items()
        if any(m in result for result in columns.values())
    ]
    cores = {1: "one core", 2: "two cores"}
    heads = [f"{name}, {cores[threads]}" for name, threads in columns]
    return f"{table(['', *heads], lines)}\n\n{source('paired')}"


def balanced() -> str:
    """The default budget beside each peer, on the sets where the peer was run."""
    summary = results.read("accuracy-balanced")["summary"]
    lines = []
    requested = dict(PEERS)
    requested["onelook, far and middling sets"] = "the same regression, on sets far from ImageNet's"
    for peer, title in requested.items():
        both = summary[peer]
        lines.append(
            [
                title,
                both["sets"],
                percent(both["theirs"]),
                f"**{percent(both['ours'])}**",
                f"{both['below on']}, not significant" if both["below on"] else "none",
            ]
        )
    heads = [
        "other tool, same base model",
        "sets",
        "its accuracy",
        "`warmstart fit`",
        "sets where `fit` is lower",
    ]
    if any(summary[peer]["significantly (Holm)"] for peer in PEERS):
        raise ValueError("a difference is no longer chance; say so in the table")
    return table(heads, lines)


def headline() -> str:
    """The default budget beside three recipes, with the mean difference and its interval."""
    titles = {
        "onelook": "logistic regression on the last layer",
        "fastai5": "fastai `fine_tune(5)`",
        "hf3": "transformers `Trainer`, 3 epochs",
    }
    ours = rows("accuracy-balanced")
    lines = []
    for peer, title in titles.items():
        gaps = np.array([row["accuracy"] - row[peer] for row in ours])
        draws = np.random.default_rng(0).choice(gaps, (10_000, len(gaps))).mean(axis=1)
        low, high = (f"{100 * q:+.1f}" for q in np.quantile(draws, (0.025, 0.975)))
        difference = f"{100 * gaps.mean():+.1f} points ({low} to {high})"
        lines.append([title, percent(mean(row[peer] for row in ours)), difference])
    heads = [
        "same base model and images",
        "its accuracy",
        f"`warmstart fit`, {percent(mean(row['accuracy'] for row in ours))}, is better by",
    ]
    return table(heads, lines)


def sets() -> str:
    """Every set of the default budget: estimate, test, what shipped, the others."""
    lines = []
    for row in rows("accuracy-balanced"):
        lines.append(
            [
                row["set"],
                f"{bare(row['value'], 0)} ({bare(row['low'], 0)}–{bare(row['high'], 0)})",
                bare(row["accuracy"]),
                *(bare(row.get(peer)) for peer in PEERS),
                took(row["seconds"]),
            ]
        )
    heads = [
        "accuracy in %",
        "estimate (95 % CI)",
        "test",
        "regression",
        "fastai 5",
        "HF 3",
        "expert 30",
        "time",
    ]
    return table(heads, lines)


def thorough() -> str:
    """The longest budget beside an expert's recipe and the default one: mean accuracies."""
    balanced, result = _by_set("accuracy-balanced"), rows("accuracy-thorough")
    return (
        f"Mean test accuracy on {len(result)} sets: `--budget thorough` "
        f"{percent(mean(row['accuracy'] for row in result))}, the default "
        f"{percent(mean(balanced[row['set']]['accuracy'] for row in result))}, the expert's recipe "
        f"{percent(mean(row['expert30'] for row in result))} {source('accuracy-thorough')}."
    )


SIZED = {
    "warmstart fast": "`fit --budget fast`",
    "warmstart": "`fit`",
    "onelook": "regression",
    "fastai5": "fastai 5",
    "trainer3": "HF 3",
    "keras": "Keras' guide",
    "timm": "timm",
}


def sizes() -> str:
    """Few and many images of three sets: accuracy and processor seconds of each recipe."""
    result = {(r["set"], r["size"], r["method"]): r for r in rows("peers")}
    lines = []
    for name, size in dict.fromkeys((one, size) for one, size, _ in result):
        own = [result.get((name, size, method)) for method in SIZED]
        cells = [f"{bare(r['accuracy'], 0)} ({r['cpu_seconds']:,.0f})" if r else "" for r in own]
        lines.append([name, size or "all", *cells])
    most = {
        method: max(r["peak_mb"] for (_, _, m), r in result.items() if m == method)
        for method in SIZED
        if any(m == method for _, _, m in result)
    }
    memory = ", ".join(f"{SIZED[m]} {mb / 1000:.1f} GB" for m, mb in most.items())
    return (
        f"{table(['% (s)', 'images per class', *SIZED.values()], lines)}\n\n"
        f"Most memory: {memory} {source('peers')}."
    )


def costs() -> str:
    """Test accuracy and seconds of four strategies on five sets."""
    result = rows("forecast")
    names = list(dict.fromkeys(row["set"] for row in result))
    plans = list(dict.fromkeys(row["plan"] for row in result))
    cell = {
        (r["plan"], r["set"]): f"{percent(r['test'])}, {took(r['seconds_taken'])}" for r in result
    }
    lines = []
    for plan in plans:
        strategy, _, budget = plan.partition(" ")
        lines.append([f"`{strategy}` ({budget})", *(cell[plan, name] for name in names)])
    return table(["", *names], lines)


def forecast() -> str:
    """How near forecasts of time and memory come."""
    summary, n = results.read("forecast")["summary"], len(rows("forecast"))
    return (
        f"Over {n} pairs of data set and strategy, the time forecast was within a factor of 1.5 of "
        f"the real time in {summary['seconds within 1.5']}, the memory forecast in "
        f"{summary['memory_mb within 1.5']} {source('forecast')}."
    )


def task_label_issues() -> str:
    """What is called wrong among several labels and numbers, planted and as they are."""
    summary = results.read("task_label_issues")["summary"]
    result = []
    for name, what in (("labels", "multi-label sets"), ("numbers", "regression targets")):
        own = {key.removeprefix(f"{name}: "): value for key, value in summary.items()}
        result.append(
            f"Of {own['planted']:,} errors planted into {own['sets']} {what}, "
            f"{own['planted, rightly']:,} were reported, along with "
            f"{own['planted, named'] - own['planted, rightly']:,} correct ones; of "
            f"{own['as they are, of']:,} unmodified examples, {own['as they are, named']:,}."
        )
    return " ".join(result) + f" {source('task_label_issues')}"


def label_issues() -> str:
    """Wrong labels planted into sets, and what is counted where none was."""
    summary = results.read("label_issues")["summary"]
    rates = (5, 10, 20)
    return (
        f"Of wrong labels planted into ten sets (5, 10, 20 %; {summary['planted cells']} draws), "
        f"{', '.join(_found(summary, rate) for rate in rates)} % are in the first tenth of the "
        f"list. A count was stated in "
        f"{summary['with a count']} draws; "
        f"{percent(summary['counted labels that are wrong'], 0)} of the "
        "labels counted were planted, and the interval covered the planted share in "
        f"{percent(summary['rate holds the truth, of those'], 0)}. In {summary['clean data']} "
        f"draws with nothing planted, {summary['clean data with a count']} got a count; of "
        f"{summary['random labels']} sets with random labels, "
        f"{summary['random labels with a count']} {source('label_issues')}."
    )


def _found(summary: Mapping[str, Any], rate: int) -> str:
    return f"{100 * summary[f'wrong labels in the top tenth, {rate}%']:.0f}"


def off_topic() -> str:
    """Images of other sets among those of one, and alarms where there are none."""
    summary = results.read("label_issues")["summary"]
    return (
        "With five images from other sets added to each of 14 sets, "
        f"{percent(summary['off-topic, strangers in the first ten'], 0)} are in the first ten of "
        "the "
        f"list and {percent(summary['off-topic, strangers called so'], 0)} are reported. "
        f"Of {summary['off-topic, clean draws']} draws with none planted "
        f"{percent(summary['off-topic, clean draws with an alarm'], 0)} raise an alarm, "
        f"{summary['off-topic, alarms in 1,000 images']:.1f} images in 1,000, about half of "
        f"them truly off-topic {source('label_issues')}."
    )


def speed() -> str:
    """Images a second while layers train."""
    summary = results.read("train_speed")
    named = {
        "hf_trainer": "Hugging Face Trainer, all blocks",
        "live_full": "warmstart, all blocks (`--strategy full`)",
        "cached": "warmstart, from cached features (`last:6`, split at 14 × 14)",
    }
    lines = [[title, summary["summary"][f"{name} images/s"]] for name, title in named.items()]
    return table(["", "images/s"], lines)


def exports() -> str:
    """Size and largest difference of each format, over the sets measured."""
    result = rows("export")
    lines = []
    for name in dict.fromkeys(row["format"] for row in result):
        own = [row for row in result if row["format"] == name]
        largest = max(row["largest difference of a logit"] for row in own)
        megabytes = max(row["MB"] for row in own)
        same = min(float(row.get("labels as in 32 bits") or row["same labels"]) for row in own)
        lines.append([f"`{name}`", f"{megabytes:.1f}", f"{largest:.1g}", percent(same, 0)])
    return table(["format", "MB", "largest logit difference", "same labels"], lines)


def served() -> str:
    """One server under load."""
    summary = results.read("serve")["summary"]
    return (
        f"{summary['clients']} clients for {summary['seconds']:.0f} s on the two cores of the "
        "server: "
        f"{summary['served, images a second']:.0f} images/s "
        f"({percent(summary['served / raw'], 0)} of the model alone), {summary['errors']} errors, "
        f"median latency {summary['p50 s']:.1f} s, p99 {summary['p99 s']:.1f} s; memory "
        f"{summary['memory first third, MB']:.0f} MB in the first third of the minute, "
        f"{summary['memory last third, MB']:.0f} MB in the last "
        f"{source('serve')}."
    )


def memory() -> str:
    """Peak memory with the default base model, by the number of images."""
    spans = []
    for n in dict.fromkeys(row["n"] for row in rows("memory")):
        peaks = [row["peak_rss_mb"] / 1000 for row in rows("memory") if row["n"] == n]
        spans.append(f"{min(peaks):.1f} to {max(peaks):.1f} GB with {n:,} images")
    return f"Peak memory of linear probes: {', '.join(spans)} {source('memory')}."


INTERVALS = {"seeds": "95 % CI over seeds", "images": "95 % CI over test images"}


def suggested() -> str:
    """Active learning against labelling at random; a column an interval."""
    lines = [
        [
            row["set"],
            percent(row["suggested"]),
            percent(row["at random"]),
            points(row["difference"]),
            *(
                f"{points(row[f'low ({of})'])[:-7]} to {points(row[f'high ({of})'])[:-7]}"
                for of in INTERVALS
            ),
        ]
        for row in rows("suggest")
    ]
    heads = ["set", "suggested", "at random", "difference", *INTERVALS.values()]
    return table(heads, lines)


def count(n: int) -> str:
    return {8: "eight", 14: "14"}.get(n, str(n))


MADE: dict[str, Callable[[], str]] = {
    "task_label_issues": task_label_issues,
    "label-issues": label_issues,
    "off-topic": off_topic,
    "balanced": balanced,
    "headline": headline,
    "sets": sets,
    "costs": costs,
    "forecast": forecast,
    "speed": speed,
    "exports": exports,
    "served": served,
    "memory": memory,
    "suggested": suggested,
    "sizes": sizes,
    "thorough": thorough,
    "paired": paired,
}
