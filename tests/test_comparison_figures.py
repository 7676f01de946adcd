"""Figures of a comparison: what the range over seeds shows, when panels part, and that no label changes a picture."""

import math
import re
import xml.etree.ElementTree as ElementTree
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from gpt2lab.report.canvas import line_style
from gpt2lab.report.comparison.compare import ArmResult, Comparison
from gpt2lab.report.comparison.statistics import Difference, Estimate, Judgement, NoiseFloor
from gpt2lab.report.comparison_page.arm_figures import HeatmapCell, Setting, draw_differences, draw_factor, draw_heatmap
from gpt2lab.report.comparison_page.curves_figure import (
    MOST_PANELS,
    Series,
    draw_curves,
    draw_gap,
    draw_series,
    drawn_range,
    spans_decades,
)
from gpt2lab.report.comparison_page.grokking_figure import SplitSeries, draw_splits
from gpt2lab.report.inputs import Curve

HOSTILE = "$x^2$ \x1b[31m <script>&amp; " + "long " * 40


def curve(*values: float, every: int = 100) -> Curve:
    return Curve(np.arange(len(values), dtype=np.int64) * every, np.array(values, dtype=np.float64))


def series(label: str, level: float, seeds: int = 3, points: int = 11) -> Series:
    curves = [[level + 4 * math.exp(-n / 2) + 0.01 * seed for n in range(points)] for seed in range(seeds)]
    return Series(label=label, curves=tuple(curve(*values) for values in curves))


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """The figures that were drawn, in place of their files."""
    figures: list[Figure] = []
    monkeypatch.setattr("gpt2lab.report.canvas.write_svg", lambda figure, path, title: figures.append(figure))
    return figures


def test_a_line_is_the_mean_and_range_at_the_steps_that_all_seeds_have() -> None:
    found = drawn_range([curve(1.0, 2.0, 3.0), curve(3.0, 6.0), curve(2.0, 1.0, 9.0, 9.0)])
    assert found.steps.tolist() == [0, 100]
    assert found.mean.tolist() == [2.0, 3.0]
    assert found.low.tolist() == [1.0, 1.0] and found.high.tolist() == [3.0, 6.0]


def test_a_seed_that_went_on_is_drawn_alone_and_not_averaged() -> None:
    axes = Figure().subplots()
    draw_series(axes, Series(label="a", curves=(curve(1.0, 2.0), curve(3.0, 4.0, 8.0))), color="black")
    lines = [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.lines]
    assert lines == [([0, 100], [2.0, 3.0]), ([100, 200], [4.0, 8.0])]


def test_one_seed_has_no_range_and_the_caption_says_so(tmp_path: Path, drawn) -> None:
    picture = draw_curves([series("a", 1, seeds=1)], tmp_path, file="c.svg", what="Loss", unit="nats")
    assert picture and "One seed per line" in picture.caption
    assert not drawn[0].axes[0].collections


def test_steps_are_on_a_log_axis_only_where_they_span_decades() -> None:
    assert spans_decades([Series(label="a", curves=(curve(*range(40), every=50),))])
    assert not spans_decades([Series(label="a", curves=(curve(*range(11)),))])
    assert not spans_decades([Series(label="a", curves=(Curve(np.array([0, 1, 1000]), np.zeros(3)),))])


def test_colour_and_dash_of_28_lines_are_all_different() -> None:
    styles = {str(sorted(line_style(number).items())) for number in range(28)}
    assert len(styles) == 28 and line_style(28) == line_style(0)
    assert len({line_style(number)["color"] for number in range(7)}) == 7


@pytest.mark.parametrize(("arms", "panels"), [(2, 2), (6, 2), (7, 6), (60, MOST_PANELS)])
def test_many_arms_get_a_panel_each_beside_the_baseline(tmp_path: Path, drawn, arms: int, panels: int) -> None:
    all_arms = [series(f"arm={n}", 1 + n / 10) for n in range(arms)]
    picture = draw_curves(all_arms, tmp_path, file="c.svg", what="Loss", unit="nats")
    assert picture
    visible = [axes for axes in drawn[0].axes if axes.get_visible()]
    assert len(visible) == panels
    if arms > 6:
        assert all(len(axes.lines) == 2 for axes in visible)
        assert f"the first {MOST_PANELS} of {arms - 1} arms" in picture.caption or arms - 1 <= MOST_PANELS


def test_the_alt_text_of_curves_carries_where_each_line_ends(tmp_path: Path) -> None:
    low = Series(label="low", curves=(curve(4.0, 1.25), curve(4.0, 1.75)))
    picture = draw_curves([low], tmp_path, file="c.svg", what="Loss", unit="nats")
    assert picture and "low 1.5000 (seeds 1.2500 to 1.7500) at step 100" in picture.alt


def test_curves_of_one_step_are_no_figure(tmp_path: Path) -> None:
    assert draw_curves([series("a", 1, points=1)], tmp_path, file="c.svg", what="Loss", unit="nats") is None
    assert draw_gap([], tmp_path) is None


def arm(label: str, mean: float, interval: tuple[float, float] | None, verdict: str) -> tuple[str, ArmResult]:
    result = ArmResult(
        experiments=(label,),
        varies={},
        density={},
        by_seed={},
        estimate=Estimate(n=3, mean=1.0, std=None, interval=None),
        difference=Difference(n=3, mean=mean, std=None, interval=None, p=None),
        corrected_p=None,
        corrected_interval=interval,
        judgement=Judgement(verdict=verdict, rule=""),  # type: ignore[arg-type]
    )
    return label, result


def comparison(metric: str, floor: float | None) -> Comparison:
    return Comparison(
        metric=metric,
        higher_is_better=metric == "val_accuracy",
        step=100,
        rows=(),
        apart=(),
        left_out=(),
        notes=(),
        floor=None if floor is None else NoiseFloor(std=floor, groups=1, runs=3),
        frozen=None,
        comparisons=0,
    )


def test_the_forest_has_intervals_the_noise_floor_and_the_verdict_in_words(tmp_path: Path, drawn) -> None:
    arms = [arm("a", -0.03, (-0.05, -0.01), "better"), arm("b", 0.02, None, "not distinguishable")]
    picture = draw_differences(arms, comparison("val_loss", 0.006), tmp_path, baseline="dense")
    axes = drawn[0].axes[0]
    assert [text.get_text() for text in axes.texts] == ["−0.0300  better", "+0.0200  not distinguishable (one pair)"]
    shaded = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    assert (round(shaded.x0, 6), round(shaded.x1, 6)) == (-0.006, 0.006)
    assert [tuple(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2][1] == (-0.05, -0.01)
    assert picture and "a −0.0300 (−0.0500 to −0.0100), better" in picture.alt and "± 0.0060" in picture.caption
    assert "the line is the 95 % interval" in picture.caption  # of one arm nothing is corrected
    assert "better to the left" in axes.get_xlabel()


def test_the_heatmap_prints_every_value_and_hatches_what_is_missing(tmp_path: Path, drawn) -> None:
    cells = {
        ("0", "0.3"): HeatmapCell(value=900, text="900", note="3 of 3"),
        ("0", "0.5"): HeatmapCell(text="> 2,000"),
        ("1", "0.3"): HeatmapCell(value=1500, text="1,500"),
        ("1", "0.5"): HeatmapCell(absent="no finished run"),
    }
    factors = ("decay", "fraction")
    picture = draw_heatmap(cells, tmp_path, factors=factors, file="h.svg", what="Steps", darker="later")
    axes = drawn[0].axes[0]
    assert [text.get_text() for text in axes.texts] == ["900", "3 of 3", "> 2,000", "1,500", "no finished run"]
    assert [patch.get_hatch() for patch in axes.patches] == [None, None, None, "///"]
    light, dark = (sum(axes.patches[n].get_facecolor()[:3]) for n in (0, 2))
    assert light > dark
    assert picture and "decay 1: fraction 0.3: 1,500, 0.5: no finished run" in picture.alt


def test_a_grid_too_large_to_read_is_not_drawn(tmp_path: Path) -> None:
    cells = {(str(row), "0"): HeatmapCell(value=1.0, text="1") for row in range(13)}
    assert draw_heatmap(cells, tmp_path, factors=("a", "b"), file="h.svg", what="Loss", darker="higher") is None


def test_known_values_are_drawn_into_every_panel_and_named_in_the_caption(tmp_path: Path, drawn) -> None:
    arms = [SplitSeries(label=f"d={n}", train=series("training", 0.5), val=series("validation", 1.0)) for n in range(4)]
    lines = [("ln p", 4.0775), ("uniform guess", 4.2), ("far away", 90.0)]
    picture = draw_splits(arms, tmp_path, file="l.svg", what="Loss (nats)", columns=2, lines=lines)
    assert picture and "Grey lines: ln p 4.0775; uniform guess 4.2000." in picture.caption
    assert "Outside of the axis: far away 90.0000." in picture.caption
    for axes in drawn[0].axes:
        levels = [line.get_ydata()[0] for line in axes.lines if len(line.get_xdata()) == 2]
        assert levels == [4.0775, 4.2]
    dashes = {line.get_label(): line.get_linestyle() for line in drawn[0].axes[0].lines}
    assert dashes["training"] == "--" and dashes["validation"] == "-"


def test_labels_of_any_origin_draw_the_same_bytes_twice(tmp_path: Path) -> None:
    arms = [series(HOSTILE, 1), series("$", 2)]
    splits = [SplitSeries(label=HOSTILE, train=arms[0], val=arms[1])]
    cells = {(HOSTILE, "$"): HeatmapCell(value=1.0, text="1"), (HOSTILE, HOSTILE): HeatmapCell()}
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        draw_curves(arms, folder, file="c.svg", what="Loss", unit="nats")
        draw_splits(splits, folder, file="s.svg", what="Loss", columns=1)
        differences = [arm(HOSTILE, 0.1, (0.0, 0.2), "worse")]
        draw_differences(differences, comparison("val_accuracy", None), folder, baseline=HOSTILE)
        draw_heatmap(cells, folder, factors=(HOSTILE, "$a$"), file="h.svg", what="Loss", darker="higher")
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["c.svg", "differences.svg", "h.svg", "s.svg"]
    for name in files:
        content = (tmp_path / "a" / name).read_bytes()
        assert content == (tmp_path / "b" / name).read_bytes()
        ElementTree.fromstring(content)
        assert not re.search(rb"<script", content)


def test_every_pair_of_arms_and_seeds_draws(tmp_path: Path) -> None:
    for arms, seeds in product((1, 8), (1, 2)):
        assert draw_gap([series(f"a={n}", n / 10, seeds=seeds) for n in range(arms)], tmp_path)


def settings(*speeds: float) -> list[Setting]:
    return [
        Setting(label=label, metric=(loss, loss + 0.2), token_us=speeds)
        for label, loss in (("0", 1.5), ("64", 1.6), ("256", 1.4))
    ]


def test_one_factor_shows_every_seed_of_the_metric_and_of_the_time_per_token(tmp_path: Path, drawn) -> None:
    picture = draw_factor(settings(20.0, 22.0), tmp_path, factor="w", metric="Loss", unit="nats", untimed=None)
    losses, times = drawn[0].axes
    assert [text.get_text() for text in losses.get_xticklabels()] == ["0", "64", "256"]
    assert [list(line.get_ydata()) for line in losses.lines[:3]] == [[1.5, 1.7], [1.6, 1.6 + 0.2], [1.4, 1.4 + 0.2]]
    assert list(losses.lines[3].get_ydata()) == pytest.approx([1.6, 1.7, 1.5])
    assert list(times.lines[3].get_ydata()) == [21.0, 21.0, 21.0]
    assert times.get_ylim()[0] == 0 < losses.get_ylim()[0]
    assert picture and "64: 1.7000, 21.0 µs per token" in picture.alt


def test_times_that_cannot_be_held_against_each_other_are_not_drawn(tmp_path: Path, drawn) -> None:
    picture = draw_factor(settings(20.0), tmp_path, factor="w", metric="Loss", unit="", untimed="a busy machine")
    assert len(drawn[0].axes) == 1
    assert picture and picture.caption.endswith("No times: a busy machine.")
    assert draw_factor(settings(20.0)[:2], tmp_path, factor="w", metric="Loss", unit="", untimed=None) is None
