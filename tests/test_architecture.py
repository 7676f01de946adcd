"""Which part may import which, which library is used where, and how long a file may be."""

import ast
import fnmatch
import graphlib
import os
import re
import shutil
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
    "scipy": ["report/comparison/statistics.py"],
    "yaml": ["compose/*", "record/rundir.py", "archive/import_check.py"],
    "click": ["cli/*"],
    "rich": [
        "run.py",
        "sweep/*",
        "cli/archive.py",
        "cli/compare.py",
        "cli/evaluate.py",
        "cli/model.py",
        "train/progress.py",
        "train/session.py",
    ],
}

VAGUE_NAMES = {"utils.py", "util.py", "common.py", "helpers.py", "helper.py", "misc.py"}


def imported_modules(file: Path, package: Path) -> Iterator[str]:
    """Yield the dotted name of each module that `file` imports, anywhere in it; of `from a import b`, a.b as well."""
    here = [package.name, *file.relative_to(package).with_suffix("").parts]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*(here[: -node.level] if node.level else []), *(node.module.split(".") if node.module else [])]
            yield ".".join(base)
            yield from (".".join([*base, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("import_module", "__import__"):
            name = node.args[0] if node.args else None
            # A computed name would hide an arrow from this walk.
            assert isinstance(name, ast.Constant), f"{file}:{node.lineno}: imports a module whose name is computed"
            yield str(name.value)


def part_of(dotted: str, package: Path) -> str:
    """Return the part of gpt2lab that `gpt2lab.part.module.name` belongs to, "" for gpt2lab/__init__.py itself."""
    first = dotted.split(".")[1:2]
    is_part = first and ((package / first[0]).is_dir() or (package / f"{first[0]}.py").is_file())
    return first[0] if is_part else ""


def arrows(package: Path) -> dict[tuple[str, str], str]:
    """Return {(part, imported part): a file that does it}."""
    found: dict[tuple[str, str], str] = {}
    for file in sorted(package.rglob("*.py")):
        relative = file.relative_to(package)
        part = "" if relative == Path("__init__.py") else relative.parts[0].removesuffix(".py")
        for dotted in imported_modules(file, package):
            target = part_of(dotted, package)
            if dotted.split(".")[0] == package.name and target not in (part, ""):
                found.setdefault((part, target), str(relative))
    return found


def wrong_arrows(package: Path) -> list[str]:
    return [
        f"{file}: {part or package.name} may not import {target}"
        for (part, target), file in arrows(package).items()
        if target not in {*ARROWS.get(part, set()), "errors"} or part in ("", "errors")
    ]


def cycles(package: Path) -> list[str]:
    graph: dict[str, set[str]] = {}
    for part, target in arrows(package):
        graph.setdefault(part, set()).add(target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [" <- ".join(error.args[1])]
    return []


def wrong_libraries(package: Path) -> list[str]:
    wrong = []
    for file in sorted(package.rglob("*.py")):
        relative = file.relative_to(package).as_posix()
        for library in sorted({dotted.split(".")[0] for dotted in imported_modules(file, package)}):
            if library in sys.stdlib_module_names or library == package.name:
                continue
            if not any(fnmatch.fnmatch(relative, pattern) for pattern in LIBRARIES.get(library, [])):
                wrong.append(f"{relative}: may not import {library}")
    return wrong


def imports_below_the_engine(package: Path) -> list[str]:
    """Return which files outside of engine/ import a module of it; everything public is a name of `gpt2lab.engine`."""

    def is_below(dotted: str) -> bool:
        parts = dotted.split(".")
        path = package.joinpath(*parts[1:3])
        return (
            parts[:2] == [package.name, "engine"]
            and len(parts) > 2
            and (path.is_dir() or path.with_suffix(".py").is_file())
        )

    wrong = []
    for file in sorted(package.rglob("*.py")):
        relative = file.relative_to(package)
        modules = sorted(filter(is_below, imported_modules(file, package)))
        if modules and relative.parts[0] != "engine":
            wrong.append(f"{relative.as_posix()}: may not import {modules[0]}, only names of {package.name}.engine")
    return wrong


def too_long(root: Path, files: list[str]) -> list[str]:
    sources = [name for name in files if name.endswith(".py")]
    lengths = {name: len((root / name).read_text(encoding="utf-8").splitlines()) for name in sources}
    return [f"{name}: {lines} lines, at most {LONGEST_FILE}" for name, lines in lengths.items() if lines > LONGEST_FILE]


def repeated_names(package: Path) -> list[str]:
    """Return the public classes and type aliases that two files of a package define."""
    places: dict[str, list[str]] = {}
    for file in sorted(package.rglob("*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            if isinstance(node, ast.ClassDef):
                names = [node.name]
            for name in names:
                if re.match("[A-Z][A-Za-z0-9]*[a-z]", name):
                    places.setdefault(name, []).append(file.relative_to(package).as_posix())
    return [f"{name}: {', '.join(files)}" for name, files in places.items() if len(files) > 1]


def test_every_part_of_the_package_has_a_line_in_the_table() -> None:
    package = PROJECT / "gpt2lab"
    parts = {f.relative_to(package).parts[0].removesuffix(".py") for f in package.rglob("*.py")} - {"__init__"}
    assert parts == set(ARROWS) - {""}


def test_parts_import_only_what_the_table_allows() -> None:
    assert wrong_arrows(PROJECT / "gpt2lab") == []


def test_parts_do_not_import_each_other_in_a_circle() -> None:
    assert cycles(PROJECT / "gpt2lab") == []


def test_nothing_outside_of_the_engine_knows_its_modules() -> None:
    assert imports_below_the_engine(PROJECT / "gpt2lab") == []


def test_libraries_are_imported_only_where_the_table_says() -> None:
    assert wrong_libraries(PROJECT / "gpt2lab") == []


def test_every_class_and_type_has_a_name_of_its_own() -> None:
    assert repeated_names(PROJECT / "gpt2lab") == []


def test_a_name_with_two_meanings_is_found(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text("class Cell:\n    pass\n\nROW = 1\n")
    (tmp_path / "two.py").write_text("Cell = dict[str, int]\nROW = 2\n")
    assert repeated_names(tmp_path) == ["Cell: one.py, two.py"]


def test_one_module_locks_files() -> None:
    package = PROJECT / "gpt2lab"
    locking = [file for file in package.rglob("*.py") if "fcntl" in imported_modules(file, package)]
    assert locking == [package / "record" / "lock.py"]


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
def test_a_wrong_import_is_found(tmp_path: Path, file: str, line: str, check: Callable[[Path], list[str]]) -> None:
    package = tmp_path / "gpt2lab"
    shutil.copytree(PROJECT / "gpt2lab", package, ignore=shutil.ignore_patterns("__pycache__"))
    changed = package / file
    changed.parent.mkdir(exist_ok=True)
    with changed.open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")
    assert len(check(package)) == 1


def test_a_module_name_that_is_computed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text("import importlib\nimportlib.import_module('wan' + 'db')\n")
    with pytest.raises(AssertionError, match=r"late\.py:2"):
        list(imported_modules(tmp_path / "late.py", tmp_path))


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
