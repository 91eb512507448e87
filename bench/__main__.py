"""`python -m bench list | run NAME [options] | table [--docs] | same record|check`"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

from bench import results, same, written

NAMES = (
    "accuracy",
    "calibrate",
    "coverage",
    "distances",
    "engines",
    "evidence",
    "export",
    "faults",
    "fine_tuning",
    "forecast",
    "forgetting",
    "freezing",
    "gain",
    "guards",
    "kills",
    "label_issues",
    "linear",
    "memory",
    "minutes",
    "mutants",
    "outcomes",
    "paired",
    "peers",
    "planted",
    "preprocessing",
    "prior",
    "random_labels",
    "ranking",
    "scale",
    "scale_data",
    "scale_exchange",
    "scale_kills",
    "scale_processes",
    "serve",
    "ship",
    "sound",
    "speed",
    "startup",
    "stories",
    "strategies",
    "studio",
    "suggest",
    "tabular",
    "task_label_issues",
    "tasks",
    "text",
    "text_pairs",
    "train_speed",
    "verdict",
)
BENCHES = {name: import_module(f"bench.{name}") for name in NAMES}


def main(argv: list[str]) -> int:
    """Run one bench, or show what there is."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="the benches, one line each")
    shown = verbs.add_parser("table", help="kept results as text")
    shown.add_argument("--docs", action="store_true", help="write them into README.md and docs/")
    about = (same.__doc__ or "").splitlines()[0]
    same.add_verbs(verbs.add_parser("same", help=about))
    run = verbs.add_parser("run", help="run one and keep its result").add_subparsers(
        dest="name", required=True
    )
    for name, module in BENCHES.items():
        options = run.add_parser(name, help=(module.__doc__ or "").splitlines()[0])
        options.add_argument("--data", type=Path, help="folder of <set>/{train,test}/<class>/*")
        module.add_options(options)
    args = parser.parse_args(argv)
    if args.verb == "list":
        for name, module in BENCHES.items():
            print(f"{name:14s} {(module.__doc__ or '').splitlines()[0]}")
        print(f"{'same':14s} {about} (python -m bench same)")
    elif args.verb == "same":
        return same.main(args)
    elif args.verb == "table" and args.docs:
        for path in written.write():
            print(path.relative_to(written.ROOT))
    elif args.verb == "table":
        for path in sorted(results.FOLDER.glob("*.json")):
            print(f"== {path.stem}\n{results.as_text(results.read(path.stem))}")
    else:
        stored = results.keep(args.name, BENCHES[args.name].measure(args), argv)
        print(results.as_text(stored))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
