"""The floors: imports point down, and the promises that hold over every file."""

from __future__ import annotations

import ast
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import warmstart
from pages_as_text import DOCS

ROOT = Path(warmstart.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
STUDIO = sorted((ROOT.parent / "warmstart_studio").rglob("*.py"))
FLOORS = [
    line.split()
    for line in re.search(
        r"```floors\n(.*?)```", (DOCS / "architecture.md").read_text("utf-8"), re.S
    )[1].splitlines()
]
# The higher a floor, the lower its number.
FLOOR = {part: number for number, parts in enumerate([["__main__"], *FLOORS]) for part in parts}


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
def test_imports_point_down_the_floors(path):
    for own, other, line in imports(path):
        if own in ("__init__", other) or other in ("warmstart", "__version__"):
            continue  # the package itself gives only its version
        assert FLOOR[other] > FLOOR[own], f"{path.name}:{line}: {own} imports {other}"


def test_every_package_has_its_floor():
    parts = {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in FILES}
    assert parts - {"__init__"} == FLOOR.keys()


# What a program beside may import, apart from the public names; each is used by the studio.
FOR_PROGRAMS = [
    "data.dataset",
    "data.labels",
    "data.read",
    "errors",
    "evaluation.readiness",
    "events",
    "formatting",
    "modalities.audio",
    "modalities.image",
    "modalities.registry",
    "nouns",
    "planning.plan_file",
    "planning.settings",
    "planning.strategy",
    "records.answer",
    "records.data",
    "records.plan",
    "records.run_folder",
    "records.summary",
    "refit_cache",
    "reporting.curves",
    "reporting.facts",
    "reporting.first_screen",
    "request",
    "run.compare",
    "run.forecast",
    "run.predictor",
    "run.reopened",
    "serving",
    "serving.access",
    "serving.app",
    "serving.http",
    "serving.inputs",
    "serving.model",
    "serving.serve",
    "stats.metrics",
    "stats.paired",
    "tasks.registry",
    "tasks.regress",
    "terminal.progress",
]


def test_the_studio_uses_what_any_program_beside_may_use():
    used = set()
    for path in STUDIO:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("warmstart."):
                assert not [a.name for a in node.names if a.name.startswith("_")], path.name
                used.add(node.module.removeprefix("warmstart."))
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "warmstart":
                assert node.attr in warmstart.__all__, f"{path.name}:{node.lineno}"
            elif isinstance(node, ast.Import):
                assert not [a.name for a in node.names if a.name.startswith("warmstart.")]
    assert used == set(FOR_PROGRAMS)


def test_nothing_imports_the_studio():
    """`warmstart studio` finds it by its name."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "warmstart_studio" not in ast.unparse(node), f"{path.name}:{node.lineno}"


def test_no_modules_import_each_other_in_a_circle():
    known = {
        ".".join(("warmstart", *p.relative_to(ROOT).with_suffix("").parts)).removesuffix(
            ".__init__"
        )
        for p in FILES
    }
    graph = {name: set() for name in known}
    for path in FILES:
        name = ".".join(("warmstart", *path.relative_to(ROOT).with_suffix("").parts))
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    graph[name.removesuffix(".__init__")].add(
                        inner if inner in known else node.module
                    )
    order = TopologicalSorter({name: used & known - {"warmstart"} for name, used in graph.items()})
    order.prepare()  # raises CycleError


def test_the_package_itself_imports_nothing_at_once():
    tree = ast.parse((ROOT / "__init__.py").read_text("utf-8"))
    names = {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert names <= {"__future__", "importlib", "typing"}


LIGHT = [
    "warmstart",
    "warmstart.cli",
    "warmstart.cli.parse",
    "warmstart.cli.main",
    "warmstart.records",
    "warmstart.planning.build",
    "warmstart.planning.plan_file",
    "warmstart.planning.verdict",
    "warmstart.planning.rules",
    "warmstart.features.cache",
    "warmstart.network.registry",
    "warmstart.api.run",
]


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


@pytest.mark.parametrize(
    "path", [*FILES, *STUDIO], ids=lambda p: p.relative_to(ROOT.parent).as_posix()
)
def test_no_pickle_no_printing_no_assert(path):
    part = path.relative_to(ROOT.parent).parts[1]
    for name, call in calls(path):
        where = f"{path.name}:{call.lineno}"
        assert name != "print" or part in ("cli", "terminal"), f"{where} prints"
        assert name not in ("eval", "exec", "torch.save"), where
        assert name.partition(".")[0] not in ("pickle", "dill", "joblib", "marshal"), where
        if name == "torch.load":
            assert keywords(call).get("weights_only") == "True", f"{where} may run code"
        if name in ("np.load", "numpy.load"):
            assert keywords(call).get("allow_pickle", "False") == "False", where
        assert keywords(call).get("allow_pickle", "False") == "False", where
    tree = ast.parse(path.read_text("utf-8"))
    assert not [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Assert)]


def test_no_class_name_stands_twice():
    homes = {}
    for path in (*FILES, *STUDIO):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, set()).add(path)
    assert not {name: places for name, places in homes.items() if len(places) > 1}


def test_ruff_decides_on_every_line():
    for folder in ("src", "tests", "bench"):
        for path in (ROOT.parents[1] / folder).rglob("*.py"):
            text = path.read_text("utf-8")
            assert not re.search(r"# fmt: (skip|off)\b", text), path
