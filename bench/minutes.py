"""--minutes M: does a run that would take longer stay within 10 % of M?"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from typing import Any

from bench import sets

SETS = ("ants_bees", "pacs_sketch", "sign_digits")
PLANS = (("full", 1.0), ("full", 2.0), ("last:6", 0.75), ("full+gradual", 1.5))
MOST = 1.1  # times the minutes


def add_options(parser: ArgumentParser) -> None:
    """--sets."""
    parser.add_argument("--sets", nargs="+", default=list(SETS))


def measure(args: Namespace) -> dict[str, Any]:
    """From the start of the process to the finished folder, cold; nothing is shared."""
    rows = []
    for name in args.sets:
        for strategy, minutes in PLANS:
            options = ("--strategy", strategy, "--minutes", f"{minutes}", "-q")
            taken = sets.fit(sets.root(args) / name, *options)
            rows.append(
                {
                    "set": name,
                    "strategy": strategy,
                    "minutes": minutes,
                    "seconds": round(taken.seconds, 1),
                    "of what was set": round(taken.seconds / 60 / minutes, 3),
                    "accuracy": taken.summary["test"]["accuracy"],
                    "shipped": taken.summary["shipped"]["strategy"],
                    "by_stage": taken.summary["seconds"],
                }
            )
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    shares = [row["of what was set"] for row in rows]
    stored = sum(share <= MOST for share in shares)
    return {
        "summary": {
            "kept within 10 %": f"{stored} of {len(rows)}",
            "share of the minutes that was used": f"{min(shares):.2f} to {max(shares):.2f}",
        },
        "rows": rows,
    }
