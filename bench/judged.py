"""Tables of the documents: how often intervals, verdicts, guards and promises are right."""

from __future__ import annotations

from collections.abc import Callable

from bench import results
from bench.markdown import percent, source, table
from bench.tables import rows


def coverage() -> str:
    """How often an interval holds the truth, over draws of 100 images."""
    *even, unequal = [(row["pool"], percent(row["covered"])) for row in rows("coverage")]
    share, _, over = results.read("coverage")["summary"]["pooled coverage"].partition(" over ")
    return (
        f"The interval covers the truth in {percent(float(share))} of {over} of 100 images "
        f"({', '.join(' '.join(one) for one in even)}). With groups of very unequal size it is too "
        f"narrow: {unequal[1]} {source('coverage')}."
    )


def verdicts() -> str:
    """The verdict on random labels, true labels, and with shuffled weights."""
    result = rows("verdict")
    counted: dict[str, dict[str, int]] = {}
    for row in result:
        of = counted.setdefault(row["what"], {})
        of[row["verdict"]] = of.get(row["verdict"], 0) + 1
    named = {
        "true labels": "true labels (`check`)",
        "random labels": "random labels",
        "no knowledge": "true labels, shuffled weights",
        "few": "20 to 60 examples",
    }
    lines = []
    for what, title in named.items():
        summary = {kind: n for kind, n in counted[what].items() if kind != "too many classes"}
        output = ", ".join(
            f"`{kind}` {n}" for kind, n in sorted(summary.items(), key=lambda p: -p[1])
        )
        lines.append([title, sum(summary.values()), output])
    return table(["data", "runs", "verdicts"], lines) + f"\n\n{source('verdict')}"


def outcomes() -> str:
    """Verdicts that the test images confirm, by what was changed in the data or the network."""
    result, summary = rows("outcomes"), results.read("outcomes")["summary"]
    titles = {
        ("lite0", "true"): "true labels",
        ("blank", "true"): "shuffled weights",
        ("lite0", "random"): "random labels",
    }
    confirmed = []
    for (base, labels), title in titles.items():
        some = [row for row in result if (row["base"], row["labels"]) == (base, labels)]
        decided = [row for row in some if row["verdict"] != "inconclusive"]
        right = sum(row["verdict"] in row["right"] for row in decided)
        confirmed.append(f"{right} of {len(decided)} with {title}")
    return (
        f"The test images confirm {summary['right of those that say something']} verdicts "
        f"({', '.join(confirmed)}); {summary['inconclusive']} were `inconclusive` "
        f"{source('outcomes')}."
    )


def from_nothing() -> str:
    """Training from scratch beside a base model, pretrained and shuffled."""
    result = [row for row in rows("outcomes") if row["labels"] == "true"]
    known = [row for row in result if row["base"] == "lite0"]
    blank = [row for row in result if row["base"] == "blank"]
    fair = [f"{row['set']} ({row['n']})" for row in known if "no-transfer" in row["right"]]
    behind = [max(row["linear-probe"], row["fine-tune"]) - row["scratch"] for row in known]
    mean = f"{100 * sum(behind) / len(behind):.1f} points worse on average over {len(known)} draws"
    sizes = sorted(row["n"] for row in known)
    ahead = sum("no-transfer" in row["right"] for row in blank)
    return (
        f"With {sizes[0]} to {sizes[-1]} training images of 96 px, training from scratch was as "
        f"good as fine-tuning the ImageNet weights on {', '.join(fair) or 'none'}, and {mean}; as "
        f"good as fine-tuning shuffled weights in {ahead} of {len(blank)} {source('outcomes')}."
    )


def faults() -> str:
    """Twelve mistakes made on purpose in five sets."""
    summary = results.read("faults")["summary"]
    skipped = ("reported or repaired", "clean runs with a false alarm", "false alarms")
    result = {name: output for name, output in summary.items() if name not in skipped}
    always = [name for name, output in result.items() if output == "5 of 5"]
    rest = [f"{name} ({output})" for name, output in result.items() if name not in always]
    return (
        f"{summary['reported or repaired']} mistakes were reported or measured to be harmless. In "
        f"all five sets: {', '.join(always)}. Not always: {', '.join(rest)}. Of the runs without a "
        f"mistake, {summary['clean runs with a false alarm']} raised a false alarm "
        f"{source('faults')}."
    )


def kills() -> str:
    """Runs that were killed and resumed."""
    summary = results.read("kills")["summary"]
    return (
        f"{summary['identical']} killed and resumed runs ({summary['kills']} kills in all) ended "
        "with "
        f"the same bytes as uninterrupted runs {source('kills')}."
    )


def minutes() -> str:
    """How well --minutes is kept."""
    summary = results.read("minutes")["summary"]
    longest = max(row["of what was set"] for row in rows("minutes"))
    return (
        f"`--minutes` was kept within 10 % in {summary['kept within 10 %']} runs "
        f"{source('minutes')}; the longest took {longest:.2f} times the limit."
    )


def preprocessing() -> str:
    """Images fed in wrongly."""
    summary = results.read("preprocessing")["summary"]
    costly = summary["costly (3 points and more, surely above 0)"]
    return (
        f"Of {costly} preprocessing errors that cost 3 points or more, {summary['of them found']} "
        f"were reported, with {summary['right way warned of']} false alarms "
        f"{source('preprocessing')}."
    )


def copies() -> str:
    """Near copies planted across the parts."""
    summary = results.read("planted")["summary"]
    result = percent(summary["near copies found, worst set"], 0)
    sets = len({row["set"] for row in rows("planted") if row["planted"] == "nothing"})
    return (
        f"Of near-duplicates planted across training and test set of {sets} sets, {result} were "
        f"found in the worst set, and none was paired with an unrelated image "
        f"{source('planted')}."
    )


def gain() -> str:
    """The stated fine-tuning gain and estimate, against what all other images of a set say."""
    result = results.read("gain")["summary"]["all"]
    off = result["estimate minus truth"].replace("-", "−")
    return (
        f"In {result['cells']} draws the stated gain was {result['stated gain']:+.1f} points on "
        f"average, the true one {result['realised gain']:+.1f}; the interval covered it in "
        f"{percent(float(result['its interval holds the realised']))}. The estimate was off by "
        f"{off} points (mean ± standard error), and its interval "
        f"covered the truth in {percent(float(result['its interval holds the truth']))} "
        f"{source('gain')}."
    )


MADE: dict[str, Callable[[], str]] = {
    "coverage": coverage,
    "gain": gain,
    "verdicts": verdicts,
    "faults": faults,
    "kills": kills,
    "minutes": minutes,
    "outcomes": outcomes,
    "from-nothing": from_nothing,
    "preprocessing": preprocessing,
    "copies": copies,
}
