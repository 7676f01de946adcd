"""The noise floor: which archived runs count, those of sweeps among them, and what is said of those that do not."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt2lab.errors import ArchiveError
from gpt2lab.report.comparison import noise
from gpt2lab.report.comparison.arms import Run, read_run
from gpt2lab.report.comparison.noise import FILE, FrozenNoise, floor_of, like, read_frozen, write_frozen
from gpt2lab.report.comparison.sweep_results import freeze_noise, noise_words, read_sweep_results
from tests.run_records import text_rows, write_record
from tests.sweep_records import of_seed, write_banded_sweep

Archive = list[tuple[Path, dict[str, Any]]]


def write(directory: Path, seed: int, *, shift: float = 0.0, band: int = 0, **status: Any) -> Path:
    rows = text_rows()
    for row in rows:
        if row.get("val_loss") is not None:
            row["val_loss"] = row["val_loss"] + shift  # type: ignore[operator]
    return write_record(directory, rows, config={"seed": seed, "fc1_band": band}, status=status)


def entries(*directories: Path) -> Archive:
    return [(path, json.loads((path / "provenance.json").read_text())) for path in directories]


def names(runs: Iterable[Run]) -> list[str]:
    return [run.name for run in runs]


def test_the_floor_is_the_pooled_spread_of_runs_of_equal_config(tmp_path: Path) -> None:
    shifts = [(0, 1, 0.0), (0, 2, 0.2), (256, 1, 1.0), (256, 2, 1.4), (512, 1, 7.0)]
    runs = [read_run(write(tmp_path / f"{b}-{s}", s, shift=shift, band=b)) for b, s, shift in shifts]
    found = floor_of(runs, "val_loss", 1000)
    # 0.1, 0.1, 0.2, 0.2 from the means, 2 degrees of freedom: (0.01 + 0.01 + 0.04 + 0.04) / 2
    assert found is not None and (found.groups, found.runs) == (2, 4)
    assert found.std == pytest.approx(np.sqrt(0.05))
    assert floor_of(runs, "val_loss", 1001) is None


def test_runs_that_are_named_again_or_did_not_finish_add_nothing(tmp_path: Path) -> None:
    named = [read_run(write(tmp_path / "named", 1))]
    again = write(tmp_path / "again", 1)
    other = write(tmp_path / "other", 2)
    stopped = write(tmp_path / "stopped", 3, state="interrupted")
    found = like(named[0], entries(tmp_path / "named", again, other, stopped), named)
    assert names(found.runs) == ["other"] and found.unreadable == ()
    assert found.notes == [
        "the noise floor looks at 1 more run of the archive: same data, steps, evaluation and model; the latest 200 "
        "at most"
    ]


def test_a_record_that_cannot_be_read_is_counted_and_named(tmp_path: Path) -> None:
    named = [read_run(write(tmp_path / "named", 1))]
    broken, lost = write(tmp_path / "broken", 2), write(tmp_path / "lost", 3)
    archive = entries(broken, lost)
    (broken / "config.yaml").write_text("- no mapping")
    (lost / "status.json").unlink()
    found = like(named[0], archive, named)
    assert found.runs == () and len(found.unreadable) == 2
    assert len(found.notes) == 1 and "\n" not in found.notes[0]
    assert found.notes[0].startswith(f"the noise floor leaves out 2 archived records that cannot be read ({broken}")


def test_the_runs_inside_an_archived_sweep_count(tmp_path: Path) -> None:
    sweep = write_banded_sweep(tmp_path / "00001-banded")
    (sweep / "runs" / "99-earlier-attempt").mkdir()
    first = read_run(sweep / "runs" / "0-fc1_band=0-fc2_band=0-seed=1")
    found = like(first, [(sweep, {})], [first])
    assert len(found.runs) == 20 and found.unreadable == ()
    floor = floor_of([first, *found.runs], "val_loss", 1000)
    faded = 1 - np.exp(-1000 / 120)  # how much of its floor a loss of the record shows at step 1000
    spread = faded * np.sqrt(np.mean([np.var([of_seed(cell, s) for s in (1, 2, 3)], ddof=1) for cell in range(7)]))
    assert floor is not None and (floor.groups, floor.runs) == (7, 21) and floor.std == pytest.approx(spread)


def test_runs_of_another_sweep_count_though_their_folders_have_the_same_names(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "0-seed=1", tmp_path / "other" / "0-seed=1"
    named = [read_run(write(mine, 1))]
    assert names(like(named[0], entries(write(theirs, 2)), named).runs) == ["0-seed=1"]


def test_a_damaged_sweep_in_the_archive_is_told(tmp_path: Path) -> None:
    first, second = write_banded_sweep(tmp_path / "first"), write_banded_sweep(tmp_path / "second")
    named = [read_run(first / "runs" / "0-fc1_band=0-fc2_band=0-seed=1")]
    (first / "sweep.json").write_text("{")
    (second / "runs" / "3-fc1_band=128-fc2_band=0-seed=1" / "provenance.json").write_text("[")
    found = like(named[0], [(first, {}), (second, {})], named)
    assert len(found.runs) == 19  # of 21: one is the named one again, one is damaged
    assert [reason.split(":")[0] for reason in found.unreadable] == [
        str(first / "sweep.json"),
        str(second / "runs" / "3-fc1_band=128-fc2_band=0-seed=1" / "provenance.json"),
    ]


def test_runs_that_were_evaluated_otherwise_are_not_like_it(tmp_path: Path) -> None:
    named = [read_run(write(tmp_path / "named", 1))]
    config = {"seed": 2, "train": {"eval_every": 7}}  # only the config tells
    other = write_record(tmp_path / "other", text_rows(), config=config)
    assert like(named[0], entries(other), named).runs == ()


def test_of_many_runs_the_latest_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise, "MOST_FOR_NOISE", 2)
    named = [read_run(write(tmp_path / "named", 1))]
    archive = entries(*(write(tmp_path / f"{seed}", seed) for seed in (2, 3, 4)))
    assert names(like(named[0], archive, named).runs) == ["3", "4"]


def test_what_the_archive_adds_is_frozen_for_the_reports_of_a_sweep(tmp_path: Path) -> None:
    sweep = write_banded_sweep(tmp_path / "sweep", widths=(256,))
    before = read_sweep_results(sweep).comparison
    assert before is not None and before.floor is not None and before.floor.runs == 12
    assert noise_words(before) == "this sweep alone"
    others = [write(tmp_path / f"{seed}", seed, shift=shift, band=128) for seed, shift in ((1, 0.0), (2, 0.2))]
    single = write(tmp_path / "single", 1, band=64)
    freeze_noise(sweep, entries(*others, single, sweep / "runs" / "0-fc1_band=0-fc2_band=0-seed=1"))
    frozen = read_frozen(sweep)
    assert frozen is not None and (frozen.metric, frozen.step, frozen.runs, frozen.unreadable) == (
        "val_loss",
        1000,
        2,
        0,
    )
    assert [round(high - low, 9) for low, high in frozen.groups] == [0.2]
    after = read_sweep_results(sweep).comparison
    assert after is not None and after.floor is not None and (after.floor.runs, after.floor.groups) == (14, 5)
    # Two degrees of freedom in each of the four cells, one in the pair, whose squares sum to 0.02.
    assert after.floor.std == pytest.approx(np.sqrt((8 * before.floor.std**2 + 0.02) / 9))
    assert noise_words(after) == "this sweep and of the archive when it was made: 2 runs in 1 group"


def test_a_frozen_floor_of_another_metric_does_not_count(tmp_path: Path) -> None:
    sweep = write_banded_sweep(tmp_path / "sweep", widths=(256,))
    write_frozen(sweep, FrozenNoise(metric="val_loss", step=900, groups=((1.0, 9.0),), runs=2, unreadable=0))
    found = read_sweep_results(sweep).comparison
    assert found is not None and found.floor is not None and found.floor.runs == 12 and found.frozen is None


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 2},
        {"groups": [[1.0]]},
        {"groups": [[1.0, "x"]]},
        {"runs": 3},
        {"step": "1"},
        {"groups": None},
        {"more": 1},
    ],
)
def test_a_damaged_frozen_floor_is_refused_by_name(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_frozen(tmp_path, FrozenNoise(metric="val_loss", step=900, groups=((1.0, 9.0),), runs=2, unreadable=0))
    content = json.loads((tmp_path / FILE).read_text()) | changes
    (tmp_path / FILE).write_text(json.dumps(content))
    with pytest.raises(ArchiveError, match=r"noise\.json: (damaged|expected)"):
        read_frozen(tmp_path)
