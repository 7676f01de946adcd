"""The wheel carries everything, runs from any directory, and no file of the project ties it to a package registry."""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from gpt2lab.data.download import exclusive
from gpt2lab.record.metrics import read_metrics

PROJECT = Path(__file__).parent.parent
# In pieces, since this file is tracked too.
REGISTRY_HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pypi", "python", "org"),
        ("pythonhosted", "org"),
        ("download", "pytorch", "org"),
        ("pypi", "nvidia", "com"),
        ("conda", "anaconda", "org"),
        ("npmjs", "org"),
    )
]


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all worker processes of this test session share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "packaging"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def built_wheel(shared_folder: Path) -> Path:
    """The wheel, built once."""
    with exclusive(shared_folder / "wheel"):
        if not list(shared_folder.glob("*.whl")):
            build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(shared_folder)]
            run_command([*build, str(PROJECT)], shared_folder)
    [wheel] = shared_folder.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def installed_bin(built_wheel: Path, shared_folder: Path) -> Path:
    """The bin folder of an environment that holds the wheel, and sees the dependencies of this one. No network."""
    environment = shared_folder / "environment"
    with exclusive(environment):
        if not (environment / "ready").exists():
            venv.create(environment, with_pip=False, symlinks=True)
            python = environment / "bin" / "python"
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install"]
            run_command([*pip, "--no-deps", "--no-index", "--no-cache-dir", str(built_wheel)], shared_folder)
            [site_packages] = environment.glob("lib/python*/site-packages")
            # After the install, so that pip cannot see, and touch, what lies there. The .pth files in those folders
            # are not followed: an editable install of the checkout stays invisible.
            folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
            (site_packages / "dependencies.pth").write_text("\n".join(sorted(folders)) + "\n")
            (environment / "ready").touch()
    return environment / "bin"


def run_command(command: list[str], folder: Path) -> str:
    """Run `command` in `folder`, away from the checkout, and return what it prints."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def two_steps(command: list[str], folder: Path) -> None:
    """Train two steps and check what is then on disk."""
    output = run_command([*command, "debug=fast", "train.max_steps=2"], folder)
    [run_dir] = (folder / "runs").glob("*/*/")
    assert str(run_dir.relative_to(folder)) in output
    assert read_metrics(run_dir / "metrics.csv")[-1]["step"] == 2
    assert yaml.safe_load((run_dir / "config.yaml").read_text())["train"]["max_steps"] == 2


@pytest.mark.slow
def test_the_wheel_carries_conf_cuda_and_what_a_run_is_repeated_with(
    built_wheel: Path, tracked_files: list[str]
) -> None:
    with zipfile.ZipFile(built_wheel) as archive:
        names = set(archive.namelist())
    for name in tracked_files:
        if name.startswith("gpt2lab/"):
            assert name in names
        if name.startswith(("conf/", "cuda/")) or name in ("pyproject.toml", "constraints.txt"):
            assert f"gpt2lab/{name}" in names


@pytest.mark.slow
def test_the_wheel_carries_nothing_else(built_wheel: Path, tracked_files: list[str]) -> None:
    with zipfile.ZipFile(built_wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names <= {name for tracked in tracked_files for name in (tracked, f"gpt2lab/{tracked}")}


@pytest.mark.slow
def test_the_installed_package_is_the_one_that_is_imported(installed_bin: Path, tmp_path: Path) -> None:
    code = "import gpt2lab, gpt2lab.compose.configs as c; print(gpt2lab.__file__, c.CONF)"
    for path in run_command([str(installed_bin / "python"), "-c", code], tmp_path).split():
        assert Path(path).is_relative_to(installed_bin.parent)


@pytest.mark.slow
def test_the_installed_module_trains_from_a_foreign_directory(installed_bin: Path, tmp_path: Path) -> None:
    two_steps([str(installed_bin / "python"), "-m", "gpt2lab.run"], tmp_path)


@pytest.mark.slow
def test_the_console_script_trains_from_a_foreign_directory(installed_bin: Path, tmp_path: Path) -> None:
    two_steps([str(installed_bin / "gpt2lab"), "run"], tmp_path)


@pytest.mark.slow
def test_the_console_script_lists_an_archive_that_is_not_there_yet(installed_bin: Path, tmp_path: Path) -> None:
    assert "no experiments" in run_command([str(installed_bin / "gpt2lab"), "list"], tmp_path)


def test_no_file_names_the_host_of_a_package_registry(tracked_files: list[str]) -> None:
    for name in tracked_files:
        content = (PROJECT / name).read_bytes().lower()
        assert [host for host in REGISTRY_HOSTS if host.encode() in content] == [], name


def requirements() -> Iterator[Requirement]:
    """Yield every dependency that pyproject.toml names, those of the extras and of the build included."""
    settings = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = [settings["build-system"]["requires"], settings["project"]["dependencies"]]
    for group in (*groups, *settings["project"]["optional-dependencies"].values()):
        yield from (Requirement(line) for line in group)


def pins() -> dict[str, str]:
    """Return {name: version} of constraints.txt."""
    lines = (PROJECT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_constraints_hold_names_and_versions_only() -> None:
    for line in (PROJECT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line), line
        assert not re.search(r"://|@|\+|^\s*-", line), line


def test_constraints_pin_every_dependency_to_a_version_that_it_allows() -> None:
    pinned = pins()
    for requirement in requirements():
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not pinned in constraints.txt"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: constraints pin {version}"
