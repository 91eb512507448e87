"""The layout law: which part may import which, and the promises that hold over every file."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import warmstart

ROOT = Path(warmstart.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
STAGES = {
    "network", "data", "features", "inspection", "planning", "training", "evaluation", "delivery",
}  # fmt: skip
# A part imports from parts of a lower rank only; within a rank, from itself, and as ALSO says.
RANKS = {
    **dict.fromkeys(("errors", "extras", "lost"), 0),
    **dict.fromkeys(("records", "events", "remember", "codec", "words", "world"), 1),
    **dict.fromkeys(("solve", "stats", "folder", "tokens", "weightfile", "memory"), 2),
    "tasks": 3,
    **dict.fromkeys(STAGES, 4),
    **dict.fromkeys(("recording", "show"), 5),
    "joints": 6,
    **dict.fromkeys(("flow", "verbs"), 7),
    **dict.fromkeys(("run", "regressor"), 8),
    "estimator": 9,
    "cli": 10,
    "__main__": 11,
}
ALSO = {
    ("stats", "solve"),  # permutations are made of the ridge's inverses
    ("delivery", "evaluation"),  # report and card say the readiness line
    ("delivery", "planning"),  # the report says a gain as the verdict does
}


def part_of(module: str) -> str:
    """`warmstart.data.read` → `data`; the package itself → its own name."""
    return module.split(".")[1] if "." in module else module


def imports(path: Path) -> Iterator[tuple[str, str, int]]:
    """(importing part, imported part, line) for every import of ours, wherever it stands."""
    own = part_of("warmstart." + ".".join(path.relative_to(ROOT).with_suffix("").parts))
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            module = node.module or ""
            names = (
                [f"warmstart.{a.name}" for a in node.names] if module == "warmstart" else [module]
            )
        else:
            continue
        for name in names:
            if name.split(".")[0] == "warmstart":
                yield own, part_of(name), node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_point_one_way(path):
    for own, other, line in imports(path):
        if own in ("__init__", other) or other in ("warmstart", "__version__"):
            continue  # the package itself gives only its version
        assert RANKS[other] < RANKS[own] or (own, other) in ALSO, (
            f"{path.name}:{line}: {own} imports {other}"
        )


def test_every_part_has_its_place():
    parts = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in FILES}
    assert parts - {"__init__"} == RANKS.keys()


def test_the_package_itself_imports_nothing_at_once():
    tree = ast.parse((ROOT / "__init__.py").read_text("utf-8"))
    names = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert names <= {"__future__", "importlib", "typing"}


LIGHT = [
    "warmstart", "warmstart.cli", "warmstart.cli.parse", "warmstart.cli.help", "warmstart.records",
    "warmstart.planning.build", "warmstart.planning.planfile", "warmstart.planning.verdict",
    "warmstart.planning.rules", "warmstart.features.store", "warmstart.network.registry",
    "warmstart.run",
]  # fmt: skip


def test_planning_records_and_the_command_line_never_load_torch():
    code = (
        "import sys, importlib\n"
        f"for name in {LIGHT!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name + ' loads torch'\n"
    )
    job = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert job.returncode == 0, job.stderr


def test_public_names_are_sorted_few_and_documented():
    assert warmstart.__all__ == sorted(warmstart.__all__)
    assert len(warmstart.__all__) <= 15
    for name in warmstart.__all__:
        assert getattr(warmstart, name).__doc__, name
    assert dir(warmstart) == warmstart.__all__


def test_no_public_name_is_that_of_a_part():
    parts = {module.name for module in pkgutil.iter_modules([str(ROOT)])}
    assert not parts & set(warmstart.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = warmstart.nothing


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call in a file with the name it is made by, such as `torch.load`."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def keywords(call: ast.Call) -> dict[str, str]:
    """Keyword arguments as they are written."""
    return {k.arg: ast.unparse(k.value) for k in call.keywords if k.arg}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_pickle_no_printing_no_assert(path):
    part = path.relative_to(ROOT).parts[0]
    for name, call in calls(path):
        where = f"{path.name}:{call.lineno}"
        assert name != "print" or part in ("cli", "show"), f"{where} prints"
        assert name not in ("eval", "exec", "torch.save"), where
        assert name.partition(".")[0] not in ("pickle", "dill", "joblib", "marshal"), where
        if name == "torch.load":
            assert keywords(call).get("weights_only") == "True", f"{where} may run code"
        if name in ("np.load", "numpy.load"):
            assert keywords(call).get("allow_pickle", "False") == "False", where
        assert keywords(call).get("allow_pickle", "False") == "False", where
    tree = ast.parse(path.read_text("utf-8"))
    assert not [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Assert)]


def test_every_module_can_be_imported_first():
    """No hidden order: a module that needs another one imports it."""
    for path in FILES:
        name = ".".join(("warmstart", *path.relative_to(ROOT).with_suffix("").parts))
        if not name.endswith("__main__"):
            importlib.import_module(name.removesuffix(".__init__"))
