"""The package is laid out in rooms: which of its files may import which, and how long they may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
ROOMS = (
    "_version", "errors", "files", "options",  # single files that stand below all rooms
    "core", "encoders", "data", "hub", "learners", "training", "adaptation", "evaluation", "search", "recipe", "cli",
)  # fmt: skip
"""Each imports of itself and of those before it."""
DOORS = {f"metatext{name}" for name in ("", ".__main__", ".maml", ".inner", ".settings")}
"""For users only: they import from any room, and no module imports them."""
ONLY = {("adaptation", "training"): {"metatext.training.schedules"}}
"""All that a room imports of another, where that is less than the whole of it."""
NOT_IN_CORE = {"transformers", "datasets", "tokenizers"}
MANY_HAVE = {"__init__", "settings"}
COMMANDS = ("pretrain", "train", "search", "adapt", "predict", "evaluate", "export")
LEVELS, FILES_AT_THE_TOP, LINES_OF_A_FILE, LINES_OF_A_FUNCTION = 12, 12, 330, 60

MODULES = {
    ".".join(path.relative_to(PROJECT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((PROJECT / "metatext").rglob("*.py"))
}
SCRIPTS = [path for folder in ("recipes", "benchmarks", "data") for path in sorted((PROJECT / folder).rglob("*.py"))]
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in [*MODULES.values(), *SCRIPTS]}


def imported(path: Path) -> Iterator[str]:
    """What a file imports anywhere in it, also in functions and for type checking; a module where that is known."""
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: a relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module


IMPORTS = {module: {name for name in imported(path) if name in MODULES} for module, path in MODULES.items()}


def room(module: str) -> str:
    return module.split(".")[1]


def levels() -> dict[str, int]:
    """Module -> length of the longest way down from it."""
    found: dict[str, int] = {}

    def level(module: str, above: tuple[str, ...] = ()) -> int:
        assert module not in above, f"a circle: {' -> '.join([*above, module])}"
        if module not in found:
            found[module] = 1 + max([level(name, (*above, module)) for name in IMPORTS[module] - DOORS], default=0)
        return found[module]

    for module in MODULES.keys() - DOORS:
        level(module)
    return found


def test_all_modules_are_in_a_room() -> None:
    assert MODULES.keys() >= DOORS
    assert {room(module) for module in MODULES.keys() - DOORS} == set(ROOMS)


def test_no_room_imports_a_later_one() -> None:
    pairs = [(module, name) for module in MODULES.keys() - DOORS for name in IMPORTS[module]]
    assert [(m, n) for m, n in pairs if n in DOORS] == []
    assert [(m, n) for m, n in pairs if ROOMS.index(room(n)) > ROOMS.index(room(m))] == []
    assert [(m, n) for m, n in pairs if n not in ONLY.get((room(m), room(n)), {n})] == []


def test_the_core_knows_no_text() -> None:
    for module in MODULES.keys() - DOORS:
        if room(module) == "core":
            assert NOT_IN_CORE.isdisjoint(name.split(".")[0] for name in imported(MODULES[module])), module


def test_no_circles_and_few_levels() -> None:
    found = levels()
    assert [module for module, level in found.items() if level > LEVELS] == []


def test_few_files_at_the_top() -> None:
    assert len(list((PROJECT / "metatext").glob("*.py"))) <= FILES_AT_THE_TOP


def test_files_and_functions_are_short() -> None:
    long = []
    for path, tree in TREES.items():
        if len(path.read_text(encoding="utf-8").splitlines()) > LINES_OF_A_FILE:
            long.append(str(path.relative_to(PROJECT)))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > LINES_OF_A_FUNCTION:
                    long.append(f"{path.relative_to(PROJECT)}: {node.name} has {lines} lines")
    assert long == []


def test_a_name_means_one_module() -> None:
    named = defaultdict(list)
    for path in [*(path for module, path in MODULES.items() if module not in DOORS), *SCRIPTS]:
        if path.stem not in MANY_HAVE:
            named[path.stem].append(path.relative_to(PROJECT).as_posix())
    assert {name: paths for name, paths in named.items() if len(paths) > 1} == {}


@pytest.mark.parametrize(
    "words",
    [
        ["-c", "import metatext"],
        ["-m", "metatext", "--help"],
        *(["-m", "metatext", name, "--help"] for name in COMMANDS),
    ],
    ids=" ".join,
)
def test_what_needs_no_torch(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words], capture_output=True, text=True, timeout=120, cwd=PROJECT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "metatext" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "accelerate", "sklearn", "datasets"})
