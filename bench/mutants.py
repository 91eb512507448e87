"""Mutation testing: are small faults in the core noticed by the tests of the module they are in?

A mutant is one module with one change: an operator, a comparison, a number, a condition or what
is returned. It is killed where a test of that module's folder, or an example in the module
itself, fails or does not end. Changes that change nothing (equivalent ones) count as survivors.
"""

from __future__ import annotations

import ast
import copy
import os
import random
import shutil
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from warmstart.stats.intervals import wilson

ROOT = Path(__file__).parents[1]
CORE = ("planning", "solve", "stats", "inspection")
SECONDS = 600  # after which a test that does not end has noticed
OPERATORS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.MatMult: ast.Add,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
}


@dataclass(frozen=True)
class Place:
    """One change: the module, the node's number in it, and which of its operators."""

    module: Path  # below src/warmstart
    node: int
    operator: int


def add_options(parser: ArgumentParser) -> None:
    """--most, --parts, --seed."""
    parser.add_argument("--most", type=int, default=200, help="mutants, drawn at random")
    parser.add_argument("--parts", nargs="+", default=list(CORE))
    parser.add_argument("--seed", type=int, default=0)


def measure(args: Namespace) -> dict[str, Any]:
    """Draw mutants, run the tests on each, in a copy of the tree."""
    source = ROOT / "src" / "warmstart"
    modules = [path for part in args.parts for path in sorted((source / part).rglob("*.py"))]
    places = [place for path in modules for place in _places(path, source)]
    drawn = random.Random(args.seed).sample(places, min(args.most, len(places)))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        copied = Path(folder)
        for name in ("src", "tests", "pyproject.toml"):
            take = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            take(ROOT / name, copied / name)
        for part in args.parts:
            if _failed([str(copied / "tests" / part)], copied):
                sys.exit(f"tests/{part} fails as it is; nothing can be told of changes")
        for place in drawn:
            rows.append(_tried(place, copied))
            print(rows[-1], file=sys.stderr, flush=True)
    return {"summary": _summary(rows, len(places)), "rows": [r for r in rows if not r["killed"]]}


def _summary(rows: list[dict[str, Any]], n: int) -> dict[str, Any]:
    result: dict[str, Any] = {"mutants there are": n, "tried": len(rows)}
    result["killed by never ending"] = sum(row["by"] == "time" for row in rows)
    for part in ("all", *sorted({row["part"] for row in rows})):
        some = [row["killed"] for row in rows if part in ("all", row["part"])]
        low, high = wilson(sum(some) / len(some), len(some), len(some) - 1)
        result[part] = f"{sum(some)} of {len(some)} killed ({low:.0%} to {high:.0%})"
    return result


def _tried(place: Place, tree: Path) -> dict[str, Any]:
    path = tree / "src" / "warmstart" / place.module
    whole = path.read_text("utf-8")
    text, line, change = mutated(whole, place)
    path.write_text(text, "utf-8")
    try:
        by = _fails(place.module, tree)
    finally:
        path.write_text(whole, "utf-8")
    return {
        "module": place.module.as_posix(),
        "part": place.module.parts[0],
        "line": line,
        "change": change,
        "killed": bool(by),
        "by": by,
    }


def _fails(module: Path, tree: Path) -> str:
    """What noticed: its own test or those of fixed data, which are quick, or the whole folder."""
    folder = tree / "tests" / module.parts[0]
    own = folder / module.relative_to(module.parts[0]).with_name(f"test_{module.name}")
    quick = [own, tree / "src" / "warmstart" / module, *sorted(folder.glob("test_pinned*.py"))]
    for what in ([str(path) for path in quick if path.exists()], [str(folder)]):
        if how := _failed(what, tree):
            return how
    return ""


def _failed(what: Sequence[str], tree: Path) -> str:
    """ "tests" where one fails, "time" where they do not end, else nothing."""
    env = os.environ | {
        "PYTHONPATH": f"{tree / 'src'}{os.pathsep}{tree / 'tests'}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *what]
    try:
        done = subprocess.run(command, cwd=tree, env=env, capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return "time"
    return "tests" if done.returncode not in (0, 5) else ""  # 5: nothing to run


# ---- one change --------------------------------------------------------------------------------


def _places(path: Path, source: Path) -> Iterator[Place]:
    tree = ast.parse(path.read_text("utf-8"))
    types = {id(part) for node in ast.walk(tree) for part in _annotations(node)}
    for number, node in enumerate(ast.walk(tree)):
        for operator in range(len(_changes(node)) if id(node) not in types else 0):
            yield Place(path.relative_to(source), number, operator)


def _annotations(node: ast.AST) -> Iterator[ast.AST]:
    """Everything in the types that a node is annotated with: nothing of it is computed."""
    for name in ("annotation", "returns"):
        if isinstance(result := getattr(node, name, None), ast.AST):
            yield from ast.walk(result)


def mutated(text: str, place: Place) -> tuple[str, int, str]:
    """The module with its change, the line, and the change in words.

    >>> mutated("def f(a):\\n    return a < 1", Place(Path("x.py"), 5, 0))[2]
    'a < 1 → a <= 1'
    """
    tree = ast.parse(text)
    node = [*ast.walk(tree)][place.node]
    before = ast.unparse(node)
    _changes(node)[place.operator](node)
    return ast.unparse(tree), getattr(node, "lineno", 0), f"{before} → {ast.unparse(node)}"


def _changes(node: ast.AST) -> list[Any]:
    """Functions that change a node in place."""
    if isinstance(node, (ast.BinOp, ast.BoolOp)) and type(node.op) in OPERATORS:
        return [_other_operator]
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in OPERATORS:
        return [_other_comparison]
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return [_other_number]
    if isinstance(node, (ast.If, ast.IfExp)):
        return [_other_way]
    if isinstance(node, ast.Return) and node.value is not None:
        return [_nothing] if not _is_none(node.value) else []
    return []


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _other_operator(node: Any) -> None:
    node.op = OPERATORS[type(node.op)]()


def _other_comparison(node: Any) -> None:
    node.ops = [OPERATORS[type(node.ops[0])]()]


def _other_number(node: Any) -> None:
    node.value = node.value + 1


def _other_way(node: Any) -> None:
    node.test = ast.UnaryOp(op=ast.Not(), operand=copy.deepcopy(node.test))


def _nothing(node: Any) -> None:
    node.value = ast.Constant(value=None)
