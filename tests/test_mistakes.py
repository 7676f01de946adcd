"""Each deliberate mistake of tests/mistakes is found by the tests that it names."""

import compileall
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from py_compile import PycInvalidationMode

import pytest
from mistakes import MISTAKES

PROJECT = Path(__file__).parent.parent
HIDDEN = shutil.ignore_patterns(".*", "__pycache__")
WEIGHTS = shutil.ignore_patterns("model.bin", "state.safetensors")


def left_out(folder: str, names: list[str]) -> set[str]:
    """What is not copied: caches, what was generated at the top, and the weights beside experiments."""
    at_the_top = {"runs", "build", "dist", "data", "peers"} if Path(folder) == PROJECT else set()
    beside_experiments = WEIGHTS(folder, names) if Path(folder).is_relative_to(PROJECT / "experiments") else set()
    return HIDDEN(folder, names) | at_the_top | beside_experiments


@pytest.fixture(scope="session")
def copy_of_the_project(tmp_path_factory) -> Path:
    """A copy of the project's files, to make mistakes in.

    Its bytecode is compiled once and used for as long as the source has the same hash; compiled kernels are found by
    the hash of their source. So no cache hides a mistake.
    """
    project = shutil.copytree(PROJECT, tmp_path_factory.mktemp("mistakes") / "project", ignore=left_out)
    for folder in ("gpt2lab", "tools"):
        compileall.compile_dir(project / folder, quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH)
    return project


def run_tests(project: Path, tests: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {
        "PYTHONPATH": str(project),
        "PYTHONDONTWRITEBYTECODE": "1",
        "XDG_CACHE_HOME": str(project.parent / "cache"),  # compiled kernels, which nobody needs again
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(command, cwd=project / "tests", env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_found(copy_of_the_project, mistake):
    file = copy_of_the_project / mistake.file
    right = file.read_text(encoding="utf-8")
    file.write_text(right.replace(mistake.old, mistake.new), encoding="utf-8")
    try:
        result = run_tests(copy_of_the_project, list(mistake.tests))
    finally:
        file.write_text(right, encoding="utf-8")
    # Of a file that cannot be imported there is an ERROR instead, which finds nothing.
    assert "\nFAILED " in result.stdout, result.stdout[-2000:] + result.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.timeout(3600)  # all of them in one process: two to three minutes
def test_without_a_mistake_the_same_tests_pass(copy_of_the_project):
    tests = dict.fromkeys(test for mistake in MISTAKES for test in mistake.tests)
    result = run_tests(copy_of_the_project, list(tests))
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]


def test_a_mistake_can_be_made_in_one_place_and_its_tests_exist():
    assert len({mistake.name for mistake in MISTAKES}) == len(MISTAKES)
    for mistake in MISTAKES:
        code = (PROJECT / mistake.file).read_text(encoding="utf-8")
        assert code.count(mistake.old) == 1, f"{mistake.name}: {code.count(mistake.old)} places in {mistake.file}"
        assert mistake.old != mistake.new and mistake.tests, mistake.name
        for test in mistake.tests:
            name, _, function = test.partition("::")
            tests = (PROJECT / "tests" / name).read_text(encoding="utf-8")
            wanted = re.escape(function.partition("[")[0]) or "test_"
            assert re.search(rf"^def {wanted}", tests, re.MULTILINE), f"{mistake.name}: there is no {test}"
