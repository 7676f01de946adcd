"""Which part may import which, which library is used where, and how long a file may be."""

import ast
import fnmatch
import functools
import graphlib
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
LONGEST_FILE = 350  # lines

# Values flow one way. Every part may import `errors` and the version in gpt2lab/__init__.py.
ARROWS = {
    "": set(),
    "errors": set(),
    "schema": set(),
    "compose": {"schema", "record"},  # record: run directories are made unique where Hydra asks for them
    "model": {"schema"},
    "data": {"schema", "record"},  # record: its file locks
    "engine": {"schema", "model"},
    "record": {"schema"},
    "train": {"schema", "model", "data", "engine", "record"},
    "archive": {"record"},
    "report": {"record", "model"},
    "sweep": {"compose", "record", "schema"},
    "run": {"compose", "sweep", "train", "archive", "report", "data", "record", "schema"},
    "cli": {"compose", "train", "engine", "archive", "report", "data", "record", "schema", "run"},
}

# Files below gpt2lab/ that may import a library; a library that is not named here is new.
LIBRARIES = {
    "hydra": ["compose/*"],
    "omegaconf": ["compose/*"],
    "numpy": ["model/*", "data/*", "engine/*", "record/*", "train/*", "report/*"],
    "torch": ["engine/torch/*"],
    "transformers": ["engine/torch/*"],
    "cupy": ["engine/cuda/*"],
    "cuda": ["engine/cuda/*"],  # NVIDIA's bindings and pathfinder
    "nvmath": ["engine/cuda/*"],  # NVIDIA's bindings of cuBLAS
    "tiktoken": ["data/tokenizers.py"],
    "requests": ["data/download.py"],
    "safetensors": ["record/checkpoint.py"],
    "wandb": ["record/tracker.py"],
    "matplotlib": ["report/*"],
    "jinja2": ["report/*"],
    "markdown_it": ["report/notes.py"],
    "scipy": ["report/analysis.py", "report/comparison/statistics.py"],
    "yaml": ["compose/*", "record/rundir.py", "archive/import_check.py"],
    "click": ["cli/*"],
    "rich": [
        "run.py",
        "sweep/*",
        "cli/archive.py",
        "cli/terminal.py",
        "train/progress.py",
        "train/session.py",
    ],
}

Sources = dict[str, str]  # path below gpt2lab/ and text of each file

VAGUE_NAMES = {"utils.py", "util.py", "common.py", "helpers.py", "helper.py", "misc.py"}


@functools.cache
def imported_modules(file: str, text: str) -> tuple[str, ...]:
    """Return the dotted name of each module that `file` imports, anywhere in it; of `from a import b`, a.b."""
    return tuple(_imported_modules(file, text))


def _imported_modules(file: str, text: str) -> Iterator[str]:
    here = ["gpt2lab", *file.removesuffix(".py").split("/")]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*(here[: -node.level] if node.level else []), *(node.module.split(".") if node.module else [])]
            yield from (".".join([*base, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            name = node.args[0] if node.args else None
            # A computed name would hide an arrow from this walk.
            assert isinstance(name, ast.Constant), f"{file}:{node.lineno}: imports a module whose name is computed"
            yield str(name.value)


@functools.cache
def package_sources() -> Sources:
    """Return the files of gpt2lab/."""
    package = PROJECT / "gpt2lab"
    paths = sorted(package.rglob("*.py"))
    return {path.relative_to(package).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def part_of(file: str) -> str:
    """Return the part that a file belongs to, "" for gpt2lab/__init__.py itself."""
    return "" if file == "__init__.py" else file.split("/")[0].removesuffix(".py")


def file_of(dotted: str, sources: Sources) -> str:
    """Return the file of `gpt2lab.part.module.name`: the module's, or that of the package whose face has the name."""
    parts = dotted.split(".")[1:]
    while parts:
        path = "/".join(parts)
        for file in (f"{path}.py", f"{path}/__init__.py"):
            if file in sources:
                return file
        parts.pop()
    return "__init__.py"


def imported_files(file: str, sources: Sources) -> set[str]:
    """Return the files of gpt2lab from which `file` imports modules or names, at its head or later.

    The faces of packages are files like others: a name taken from one is an import of it. That Python also runs the
    faces on the way to a module is not counted, or every module would import its package, which imports it.
    """
    names = imported_modules(file, sources[file])
    return {file_of(dotted, sources) for dotted in names if dotted.split(".")[0] == "gpt2lab"} - {file}


def arrows(sources: Sources) -> dict[tuple[str, str], str]:
    """Return {(part, imported part): a file that does it}."""
    found: dict[tuple[str, str], str] = {}
    for file in sources:
        for target in imported_files(file, sources) - {"__init__.py"}:
            if part_of(target) != part_of(file):
                found.setdefault((part_of(file), part_of(target)), file)
    return found


def wrong_arrows(sources: Sources) -> list[str]:
    return [
        f"{file}: {part or 'gpt2lab'} may not import {target}"
        for (part, target), file in arrows(sources).items()
        if target not in {*ARROWS.get(part, set()), "errors"} or part in ("", "errors")
    ]


def cycles(sources: Sources) -> list[str]:
    """Return a circle of files, or of parts, of which each imports the next, if there is one."""
    files = {file: imported_files(file, sources) for file in sources}
    parts: dict[str, set[str]] = {}
    for part, target in arrows(sources):
        parts.setdefault(part, set()).add(target)
    for graph in (parts, files):
        try:
            graphlib.TopologicalSorter(graph).prepare()
        except graphlib.CycleError as error:
            return [" <- ".join(error.args[1])]
    return []


def wrong_libraries(sources: Sources) -> list[str]:
    wrong = []
    for file, text in sources.items():
        for library in sorted({dotted.split(".")[0] for dotted in imported_modules(file, text)}):
            if library in sys.stdlib_module_names or library == "gpt2lab":
                continue
            if not any(fnmatch.fnmatch(file, pattern) for pattern in LIBRARIES.get(library, [])):
                wrong.append(f"{file}: may not import {library}")
    return wrong


def imports_below_the_engine(sources: Sources) -> list[str]:
    """Return which files outside of engine/ import a module of it; everything public is a name of `gpt2lab.engine`."""
    face = "engine/__init__.py"
    return [
        f"{file}: may not import {target}, only names of gpt2lab.engine"
        for file in sources
        for target in sorted(imported_files(file, sources))
        if part_of(target) == "engine" != part_of(file) and target != face
    ]


def too_long(root: Path, files: list[str]) -> list[str]:
    sources = [name for name in files if name.endswith(".py")]
    lengths = {name: len((root / name).read_text(encoding="utf-8").splitlines()) for name in sources}
    return [f"{name}: {lines} lines, at most {LONGEST_FILE}" for name, lines in lengths.items() if lines > LONGEST_FILE]


def repeated_names(sources: Sources) -> list[str]:
    """Return the public classes and type aliases that two files of a package define."""
    places: dict[str, list[str]] = {}
    for file, text in sources.items():
        for node in ast.parse(text).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            if isinstance(node, ast.ClassDef):
                names = [node.name]
            for name in names:
                if re.match("[A-Z][A-Za-z0-9]*[a-z]", name):
                    places.setdefault(name, []).append(file)
    return [f"{name}: {', '.join(files)}" for name, files in places.items() if len(files) > 1]


def test_every_part_of_the_package_has_a_line_in_the_table() -> None:
    assert {part_of(file) for file in package_sources()} == set(ARROWS)


def test_parts_import_only_what_the_table_allows() -> None:
    assert wrong_arrows(package_sources()) == []


def test_neither_parts_nor_files_import_each_other_in_a_circle() -> None:
    assert cycles(package_sources()) == []


def test_nothing_outside_of_the_engine_knows_its_modules() -> None:
    assert imports_below_the_engine(package_sources()) == []


def test_libraries_are_imported_only_where_the_table_says() -> None:
    assert wrong_libraries(package_sources()) == []


def test_every_class_and_type_has_a_name_of_its_own() -> None:
    assert repeated_names(package_sources()) == []


def test_a_name_with_two_meanings_is_found() -> None:
    sources = {"one.py": "class Cell:\n    pass\n\nROW = 1\n", "two.py": "Cell = dict[str, int]\nROW = 2\n"}
    assert repeated_names(sources) == ["Cell: one.py, two.py"]


def test_one_module_locks_files() -> None:
    sources = package_sources()
    assert [file for file in sources if "fcntl" in imported_modules(file, sources[file])] == ["record/lock.py"]


def test_every_python_file_is_short_enough_to_read(tracked_files: list[str]) -> None:
    assert too_long(PROJECT, tracked_files) == []


def test_no_file_has_a_name_that_says_nothing(tracked_files: list[str]) -> None:
    assert [name for name in tracked_files if Path(name).name in VAGUE_NAMES] == []


@pytest.mark.parametrize(
    ("file", "line", "check"),
    [
        ("report/summary.py", "from gpt2lab.train import execute", wrong_arrows),
        ("report/summary.py", "def late() -> None:\n    import gpt2lab.engine.base", wrong_arrows),
        ("archive/store.py", "from gpt2lab import engine", wrong_arrows),
        ("archive/store.py", "from ..data import shards", wrong_arrows),
        ("model/bands.py", "import importlib\nimportlib.import_module('gpt2lab.record.disk')", wrong_arrows),
        ("errors.py", "from gpt2lab import schema", wrong_arrows),
        ("__init__.py", "from gpt2lab.errors import Gpt2labError", wrong_arrows),
        ("new/idea.py", "from gpt2lab import schema", wrong_arrows),
        ("train/plan.py", "from gpt2lab.engine.cuda.memory import plan_memory", imports_below_the_engine),
        ("train/doctor.py", "def late() -> None:\n    from gpt2lab.engine import base", imports_below_the_engine),
        ("schema/run.py", "from gpt2lab.compose import compose", cycles),
        ("data/shards.py", "def late() -> None:\n    from gpt2lab.train import execute", cycles),
        ("engine/base.py", "def late() -> None:\n    from gpt2lab.engine.create import create_engine", cycles),
        ("engine/base.py", "from gpt2lab.engine import create_engine", cycles),
        ("record/disk.py", "from . import rundir", cycles),
        ("run.py", "import hydra", wrong_libraries),
        ("cli/main.py", "from omegaconf import OmegaConf", wrong_libraries),
        ("engine/base.py", "def late() -> None:\n    import torch", wrong_libraries),
        ("train/loop.py", "from transformers import GPT2LMHeadModel", wrong_libraries),
        ("train/session.py", "import importlib\nimportlib.import_module('wandb')", wrong_libraries),
        ("data/shards.py", "import tiktoken.load", wrong_libraries),
        ("archive/index.py", "import json, jinja2", wrong_libraries),
        ("compose/grid.py", "import click", wrong_libraries),
        ("record/disk.py", "import rich", wrong_libraries),
        ("data/text.py", "import a_new_library", wrong_libraries),
    ],
)
def test_a_wrong_import_is_found(file: str, line: str, check: Callable[[Sources], list[str]]) -> None:
    sources = package_sources()
    assert len(check(sources | {file: f"{sources.get(file, '')}\n{line}\n"})) == 1


def test_a_module_name_that_is_computed_is_refused() -> None:
    with pytest.raises(AssertionError, match=r"late\.py:2"):
        imported_modules("late.py", "import importlib\nimportlib.import_module('wan' + 'db')\n")


def test_a_long_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "short.py").write_text("x = 1\n" * LONGEST_FILE)
    (tmp_path / "long.py").write_text("x = 1\n" * (LONGEST_FILE + 1))
    assert too_long(tmp_path, ["short.py", "long.py"]) == ["long.py: 351 lines, at most 350"]


def loaded_by(module: str) -> set[str]:
    """Return the top-level packages, not of the standard library, that importing `module` loads."""
    code = f"import sys; before = set(sys.modules); import {module}; print(*set(sys.modules) - before)"
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in result.stdout.split()} - set(sys.stdlib_module_names)


@pytest.mark.parametrize("module", ["gpt2lab.report", "gpt2lab.archive", "gpt2lab.record"])
def test_an_old_experiment_can_be_read_without_torch_hydra_or_wandb(module: str) -> None:
    assert loaded_by(module) & {"torch", "hydra", "omegaconf", "wandb", "cupy", "transformers"} == set()


def test_a_command_on_the_archive_starts_without_what_takes_longer_than_it() -> None:
    slow = {
        "torch",
        "hydra",
        "omegaconf",
        "wandb",
        "matplotlib",
        "scipy",
        "jinja2",
        "markdown_it",
        "tiktoken",
        "requests",
    }
    assert loaded_by("gpt2lab.cli.main") & slow == set()


def test_the_engine_interface_needs_nothing_but_numpy() -> None:
    assert loaded_by("gpt2lab.engine.base") == {"gpt2lab", "numpy"}
