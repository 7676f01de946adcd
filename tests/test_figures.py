"""Figures: which are drawn, that they are stable, and that they show the numbers they should."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import run_records

from gpt2lab.model import bands
from gpt2lab.report.canvas import Picture, thin
from gpt2lab.report.figures import draw_figures
from gpt2lab.report.inputs import Curve, read_inputs
from gpt2lab.report.summary import summarise_inputs


def draw(run: Path, folder: Path) -> dict[str, Picture]:
    inputs = read_inputs(run)
    folder.mkdir(exist_ok=True)
    return {picture.file: picture for picture in draw_figures(inputs, summarise_inputs(inputs, "run"), folder)}


@pytest.mark.parametrize(
    ("write", "files"),
    [
        (run_records.write_text_run, ["loss.svg", "learning_rate.svg"]),
        (run_records.write_banded_run, ["loss.svg", "learning_rate.svg", "bands.svg"]),
        (run_records.write_grokking_run, ["loss.svg", "accuracy.svg", "learning_rate.svg"]),
        (run_records.write_interrupted_run, []),
        (run_records.write_diverged_run, ["loss.svg", "learning_rate.svg"]),
    ],
)
def test_each_run_gets_the_figures_that_its_numbers_fill(tmp_path: Path, write, files: list[str]) -> None:
    pictures = draw(write(tmp_path / "run"), tmp_path / "figures")
    assert list(pictures) == files
    assert {path.name for path in (tmp_path / "figures").iterdir()} == set(files)
    for name, picture in pictures.items():
        assert ElementTree.parse(tmp_path / "figures" / name).getroot().tag.endswith("svg")
        assert len(picture.alt) > 20 and re.search(r"\d", picture.alt)


def test_the_bytes_depend_on_the_numbers_and_not_on_the_readers_settings(tmp_path: Path) -> None:
    run = run_records.write_banded_run(tmp_path / "run")
    draw(run, tmp_path / "a")
    with matplotlib.rc_context({"font.size": 22, "axes.linewidth": 9, "xtick.direction": "in", "svg.fonttype": "none"}):
        draw(run, tmp_path / "b")
        assert matplotlib.rcParams["font.size"] == 22  # and they are left as they were
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        assert b"<dc:date>" not in path.read_bytes()


def test_another_loss_gives_another_figure(tmp_path: Path) -> None:
    draw(run_records.write_record(tmp_path / "a", run_records.text_rows()), tmp_path / "fa")
    draw(run_records.write_record(tmp_path / "b", run_records.text_rows(floor=1.7)), tmp_path / "fb")
    assert (tmp_path / "fa" / "loss.svg").read_bytes() != (tmp_path / "fb" / "loss.svg").read_bytes()


def test_a_figure_that_no_longer_applies_is_removed(tmp_path: Path) -> None:
    draw(run_records.write_grokking_run(tmp_path / "a"), tmp_path / "figures")
    draw(run_records.write_text_run(tmp_path / "b"), tmp_path / "figures")
    assert not (tmp_path / "figures" / "accuracy.svg").exists()


def test_the_alt_text_carries_first_and_last_losses(tmp_path: Path) -> None:
    rows = run_records.text_rows()
    rows[0]["val_loss"], rows[-1]["val_loss"] = 5.5, 1.25
    pictures = draw(run_records.write_record(tmp_path / "run", rows), tmp_path / "figures")
    assert "validation split from 5.5000 at step 0 to 1.2500 at step 1,000" in pictures["loss.svg"].alt


def test_the_band_picture_states_the_exact_count(tmp_path: Path) -> None:
    one_band = {"model": {"fc1_band": 256, "fc2_band": 0}}
    run = run_records.write_record(tmp_path / "run", run_records.text_rows(), provenance=one_band)
    alt = draw(run, tmp_path / "figures")["bands.svg"].alt
    kept = int(bands.band_mask(128, 256).sum())
    assert f"FC1 (512 × 128) keeps {kept:,} weights" in alt
    assert "FC2 (128 × 512) keeps 65,536 weights, 100 %" in alt


@pytest.mark.parametrize("n_embd", [128, 768])
def test_the_band_outline_covers_exactly_the_kept_cells(tmp_path: Path, monkeypatch, n_embd: int) -> None:
    drawn = {}
    monkeypatch.setattr(
        "gpt2lab.report.canvas.write_svg", lambda figure, path, title: drawn.update({path.name: figure})
    )
    banded = {"model": {"n_embd": n_embd, "fc1_band": 256, "fc2_band": 256}}
    draw(run_records.write_record(tmp_path / "run", run_records.text_rows(), provenance=banded), tmp_path / "figures")
    for axes, transposed in zip(drawn["bands.svg"].axes, (False, True), strict=True):
        outline = axes.collections[0].get_paths()[0].vertices
        x, y = outline[:, 0], outline[:, 1]
        area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2  # shoelace; a cell has area 1
        assert area == bands.kept_weights(n_embd, 256)
        hidden, channel = (axes.get_xlim(), axes.get_ylim()) if transposed else (axes.get_ylim(), axes.get_xlim())
        assert (max(hidden), max(channel)) == (4 * n_embd, n_embd)


def test_thinning_keeps_the_ends_and_every_spike() -> None:
    values = np.full(50_000, 2.0)
    values[31_337], values[41_000] = 9.0, 0.5
    thinned = thin(Curve(np.arange(50_000), values), points=100)
    assert len(thinned) <= 100
    assert (thinned.steps[0], thinned.steps[-1]) == (0, 49_999)
    assert {9.0, 0.5} <= set(thinned.values)
    assert (np.diff(thinned.steps) > 0).all()


def test_a_long_run_stays_a_small_file(tmp_path: Path) -> None:
    rows = run_records.text_rows(steps=100_000, eval_every=1000)
    draw(run_records.write_record(tmp_path / "run", rows), tmp_path / "figures")
    assert (tmp_path / "figures" / "loss.svg").stat().st_size < 200_000
