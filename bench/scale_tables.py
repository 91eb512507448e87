"""Tables of docs/scale.md: the large network on a small machine, and what more images cost."""

from __future__ import annotations

from collections.abc import Callable

from bench import results
from bench.curves import Curve
from bench.markdown import percent, source, table
from bench.scale_processes import jobs, verdict

FAR = (1_000_000, 100_000_000)  # images that are reckoned for, not measured


def large_network() -> str:
    """Each strategy on the 557 M-parameter network."""
    lines = []
    for row in results.read("scale")["rows"]:
        output = row["forecast"]
        lines.append(
            [
                f"`{row['strategy']}`" + (", features cached" if row["cache_before_gb"] else ""),
                f"{row['images']:,}",
                _hours(row["seconds"]),
                _hours(output["seconds"]),
                f"{row['peak_rss_mb'] / 1000:.2f} GB ({output['memory_mb'] / 1000:.2f})",
                f"{row['disk_gb']:.1f} GB ({output['disk_mb'] / 1000:.1f})",
                row["verdict"],
            ]
        )
    heads = [
        "",
        "images",
        "time",
        "forecast",
        "peak memory (forecast)",
        "disk (forecast)",
        "verdict",
    ]
    return table(heads, lines)


def cost_curves() -> str:
    """The lines through those, how far off they are, and where they lead."""
    result = results.read("scale_data")["curves"]["shards"]
    shown = {
        "processor_seconds": ("CPU time", "s", _hours),
        "peak_rss_mb": ("memory", "MB", _bytes),
        "disk_mb": ("disk: features and run folder", "MB", _bytes),
    }
    lines = []
    for name, (title, unit, say) in shown.items():
        curve = Curve(**result[name])
        lines.append(
            [
                title,
                f"{curve.fixed:,.3g} {unit} + {1000 * curve.each:,.3g} {unit} · n / 1,000",
                percent(curve.error, 0),
                *(say(curve.at(n)) for n in FAR),
            ]
        )
    heads = ["", "fitted line", "largest error"]
    return table([*heads, *(f"{n:,} images" for n in FAR)], lines)


def exchange() -> str:
    """What processes send each other."""
    stored = results.read("scale_exchange")
    each = stored["summary"]["bytes an image"]
    sums = max(stored["summary"]["MB once, where a head is added up"])
    result = ", ".join(f"{row['mb']:.1f} MB for {row['n']:,} images" for row in stored["rows"])
    far = ", ".join(f"{_bytes(each * n / 1e6 + sums)} for {n:,}" for n in FAR)
    return (
        f"Feature extraction and head of two processes exchanged {result}: {each} bytes per image, "
        f"plus {sums:.0f} MB once where a head is fitted from sums. Extrapolated: {far} "
        f"{source('scale_exchange')}."
    )


def several_processes() -> str:
    """One job in several processes, beside one of a single process."""
    rows = {row["job"]: row for row in results.read("scale_processes")["rows"]}
    lines = []
    for job in (job for job in jobs(0) if job.name in rows and not job.dies):
        row = rows[job.name]
        if job.beside not in rows:
            continue
        lines.append(
            [
                job.name,
                f"{row['seconds']:,.0f}",
                f"{row['times_the_first']:.2f}",
                f"{max(row['peak_mb']):,.0f}",
                percent(row.get("largest"), 0),
                f"{row['probability']:.1g}",
                verdict(job, rows),
            ]
        )
    heads = [
        "job",
        "time, s",
        "× one process",
        "peak memory of one, MB",
        "largest share of the weights",
        "largest probability difference",
        "result",
    ]
    return table(heads, lines)


def killed() -> str:
    """What was killed, and what came of it."""
    rows = {row["job"]: row for row in results.read("scale_processes")["rows"]}
    ends = ", ".join(
        f"{rows[job.name]['seconds_to_end']:.1f} s ({job.name.removeprefix('2, killed in ')})"
        for job in jobs(0)
        if job.dies and job.name in rows
    )
    stored = results.read("scale_kills")
    other = ", ".join(stored["differing"])
    then = f"differs in {other}" if other else "has the bytes of an uninterrupted one"
    return (
        f"After one of two processes was killed, the other stopped within {ends}. An offloaded "
        f"run, killed and resumed {len(stored['rows'])} times, {then} "
        f"{source('scale_processes', 'scale_kills')}."
    )


def _hours(seconds: float) -> str:
    if seconds >= 48 * 3600:
        return f"{seconds / 86400:,.0f} days"
    return f"{seconds / 3600:,.1f} h" if seconds >= 2 * 3600 else f"{seconds / 60:,.0f} min"


def _bytes(megabytes: float) -> str:
    return f"{megabytes / 1000:,.1f} GB" if megabytes < 1e6 else f"{megabytes / 1e6:,.1f} TB"


MADE: dict[str, Callable[[], str]] = {
    "scale_network": large_network,
    "scale_curves": cost_curves,
    "scale_exchange": exchange,
    "scale_processes": several_processes,
    "scale_killed": killed,
}
