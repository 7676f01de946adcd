"""The jobs of a sweep as cells: order, seeds that are missing, runs that do not belong together."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from gpt2lab.errors import ArchiveError
from gpt2lab.model import bands
from gpt2lab.record.sweep import read_sweep
from gpt2lab.report.comparison.sweep_cells import read_cells
from tests.sweep_records import write_banded_sweep, write_grokking_sweep


def change_config(run: Path, **changes: object) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | changes))


def job(sweep: Path, number: int) -> Path:
    return next((sweep / "runs").glob(f"{number}-*"))


def test_cells_are_settings_in_the_order_of_the_plan(tmp_path: Path) -> None:
    cells = read_cells(read_sweep(write_banded_sweep(tmp_path / "sweep")))
    assert [cell.label for cell in cells[:3]] == [
        "fc1_band=0 fc2_band=0",
        "fc1_band=128 fc2_band=0",
        "fc1_band=0 fc2_band=128",
    ]
    assert len(cells) == 7 and all([member.seed for member in cell.members] == [1, 2, 3] for cell in cells)
    assert cells[1].values == {"fc1_band": 128, "fc2_band": 0}
    assert cells[0].density == {"fc1": 1.0, "fc2": 1.0}
    assert cells[1].density == {"fc1": bands.density(128, 128), "fc2": 1.0}


def test_jobs_that_did_not_finish_are_members(tmp_path: Path) -> None:
    cells = read_cells(read_sweep(write_grokking_sweep(tmp_path / "sweep")))
    assert [len(cell.finished) for cell in cells] == [2, 3, 2, 3, 3, 2]
    diverged, interrupted, absent = cells[0].members[2], cells[2].members[1], cells[5].members[2]
    assert diverged.state.word == "diverged" and diverged.run is not None and not diverged.finished
    assert interrupted.state.reason == "stopped by SIGINT" and len(cells[2].runs) == 3 and len(cells[2].finished) == 2
    assert absent.run is None and absent.seed == 3 and absent.state.word == "not started"


def test_a_job_that_left_nothing_but_its_status_has_no_record(tmp_path: Path) -> None:
    sweep = write_banded_sweep(tmp_path / "sweep")
    run = job(sweep, 4)
    shutil.rmtree(run)
    run.mkdir()
    (run / "status.json").write_text(json.dumps({"state": "failed", "reason": "no such file", "exit_code": 3}))
    cell = read_cells(read_sweep(sweep))[1]
    assert cell.members[1].run is None and cell.members[1].state.word == "failed" and len(cell.finished) == 2


def test_folders_that_the_plan_does_not_name_are_not_looked_at(tmp_path: Path) -> None:
    sweep = write_banded_sweep(tmp_path / "sweep")
    (sweep / "runs" / "0-earlier").mkdir()
    (sweep / "runs" / "0-earlier" / "status.json").write_text("{")
    assert sum(len(cell.members) for cell in read_cells(read_sweep(sweep))) == 21


@pytest.mark.parametrize("name", ["config.yaml", "provenance.json", "status.json", "metrics.csv"])
def test_a_damaged_file_of_a_finished_run_is_named(tmp_path: Path, name: str) -> None:
    sweep = write_banded_sweep(tmp_path / "sweep")
    (job(sweep, 5) / name).write_text("[0\n")
    with pytest.raises(ArchiveError) as caught:
        read_cells(read_sweep(sweep))
    assert str(job(sweep, 5) / name) in str(caught.value) and "\n" not in str(caught.value)


def test_a_finished_run_without_its_config_is_damaged(tmp_path: Path) -> None:
    sweep = write_banded_sweep(tmp_path / "sweep")
    (job(sweep, 5) / "config.yaml").unlink()
    with pytest.raises(ArchiveError, match=r"config.yaml"):
        read_cells(read_sweep(sweep))


def _other_config(sweep: Path) -> None:
    change_config(job(sweep, 4), fc1_band=64)


def _same_seed(sweep: Path) -> None:
    change_config(job(sweep, 4), seed=1)


def _other_code(sweep: Path) -> None:
    path = job(sweep, 4) / "provenance.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"code_hash": "99" * 32}))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_other_config, r"3-.* and 4-.* are one cell of the plan but ran different configs \(fc1_band\)"),
        (_same_seed, r"3-.* and 4-.* are one cell and have the same seed, 1"),
        (_other_code, r"have not the same code \(code_hash: c0dec0de against 99999999\): run one again"),
    ],
)
def test_runs_that_are_not_one_setting_are_refused(tmp_path: Path, spoil: Callable[[Path], None], says: str) -> None:
    sweep = write_banded_sweep(tmp_path / "sweep")
    spoil(sweep)
    with pytest.raises(ArchiveError, match=says):
        read_cells(read_sweep(sweep))
