"""The page of a comparison of experiments: README.md and figures/ in a folder of the reader's choice."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gpt2lab.errors import ArchiveError
from gpt2lab.record.columns import column
from gpt2lab.record.disk import disk_errors, write_atomic
from gpt2lab.record.sweep import is_sweep
from gpt2lab.report import numbers
from gpt2lab.report.canvas import Picture
from gpt2lab.report.comparison.arms import Run
from gpt2lab.report.comparison.compare import ArmResult, Comparison
from gpt2lab.report.comparison.statistics import NoiseFloor
from gpt2lab.report.comparison_page.curves_figure import draw_curves, draw_gap
from gpt2lab.report.comparison_page.pictures import draw_differences, gap_curve
from gpt2lab.report.comparison_page.series import Series
from gpt2lab.report.comparison_page.tables import Table, judged_cells, kept_words, main_caption
from gpt2lab.report.comparison_page.words import (
    count_verdicts,
    interval_of,
    lowered,
    mean_std_of,
    plural,
    spread,
)
from gpt2lab.report.inputs import Curve
from gpt2lab.report.templates import template

FILES = ("differences.svg", "curves.svg", "gap.svg")
_OURS = "<sub>Written by `gpt2lab compare`"


def write_comparison(comparison: Comparison, runs: Sequence[Run], directory: Path) -> Path:
    """Write README.md and figures/ of `comparison`, a comparison of `runs`, into `directory`; return the page.

    Raises ArchiveError when `directory` is an experiment or lies in one, holds files of somebody's own, or cannot be
    written.
    """
    page = directory / "README.md"
    with disk_errors("write", page):
        _refuse(directory, page)
        (directory / "figures").mkdir(parents=True, exist_ok=True)
        pictures = _draw(comparison, {run.name: run for run in runs}, directory / "figures")
    write_atomic(page, template("comparison.md.j2").render(_context(comparison, pictures)).encode())
    return page


def _refuse(directory: Path, page: Path) -> None:
    """Raise ArchiveError where a page would stand among the files of a record, or replace those of a person."""
    whole = directory.resolve()
    for folder in (whole, *whole.parents):
        if is_sweep(folder) or (folder / "metrics.csv").exists():
            what = "it holds a record" if folder == whole else f"it lies in {folder}, which is a record"
            raise ArchiveError(f"{directory}: {what} of its own; name another folder for the comparison")
    if page.exists() and _OURS not in page.read_text(encoding="utf-8", errors="replace"):
        raise ArchiveError(f"{page} is not a page that gpt2lab compare wrote; name another folder")
    if not page.exists() and directory.exists() and any(directory.iterdir()):
        raise ArchiveError(f"{directory}: it is not empty and holds no page of gpt2lab compare; name another folder")


def _context(comparison: Comparison, pictures: list[Picture]) -> dict[str, Any]:
    name = column(comparison.metric).label
    notes = [*comparison.notes, *(f"left out: {run}: {why}" for run, why in comparison.left_out)]
    notes += [f"not compared: {names}: {', '.join(reasons)}" for names, reasons in comparison.apart]
    runs = sum(len(row.experiments) for row in comparison.rows)
    verdicts = [row.judgement.verdict for row in comparison.rows if row.judgement is not None]
    return {
        "title": f"{name} of {plural(len(comparison.rows), 'arm')}",
        "status": f"{plural(runs, 'run')} at step {comparison.step:,}",
        "in_short": lowered(count_verdicts(verdicts)) if verdicts else None,
        "notes": notes,
        "main": _table(comparison),
        "pictures": pictures,
        "sentences": [re.sub(r"(?<= )-(?=[0-9])", "−", text) for text in comparison.sentences],
        "floor": _floor(comparison.floor),
        "arms": [(row.label, ", ".join(row.experiments)) for row in comparison.rows],
    }


def _table(comparison: Comparison) -> Table:
    with_density = any(share != 1 for row in comparison.rows for share in row.density.values())
    heads = (
        "Arm",
        "Verdict",
        *(("Kept, FC1 / FC2",) if with_density else ()),
        "Seeds",
        f"{column(comparison.metric).label}, mean ± std",
        "95 % interval",
        "Difference (interval)",
        "p",
    )
    rows = tuple(_row(row, comparison.metric, with_density) for row in comparison.rows)
    return Table(heads=heads, rows=rows, n_text=2, below=main_caption(comparison, "the first arm"))


def _row(row: ArmResult, metric: str, with_density: bool) -> tuple[Any, ...]:
    difference, p, verdict = judged_cells(row)
    return (
        row.label,
        verdict,
        *((kept_words(row.density),) if with_density else ()),
        str(row.estimate.n),
        mean_std_of(metric, row.estimate),
        interval_of(metric, row.estimate.interval),
        difference,
        p,
    )


def _floor(floor: NoiseFloor | None) -> str:
    if floor is None:
        return "Noise floor unknown: no setting has two runs, so no difference is a finding."
    return (
        f"Noise floor {spread(floor.std)}: the pooled standard deviation of {plural(floor.runs, 'run')} in "
        f"{plural(floor.groups, 'setting')} that differ in nothing but their seed."
    )


def _draw(comparison: Comparison, runs: dict[str, Run], folder: Path) -> list[Picture]:
    def series(curve: Callable[[Run], Curve]) -> list[Series]:
        return [
            Series(label=r.label, curves=tuple(curve(runs[name]) for name in r.experiments)) for r in comparison.rows
        ]

    drawn = [
        draw_differences(
            ((row.label, row) for row in comparison.rows), comparison, folder, baseline=comparison.rows[0].label
        ),
        draw_curves(
            series(lambda run: run.inputs.curve(comparison.metric)),
            folder,
            file="curves.svg",
            what=column(comparison.metric).label,
            unit=column(comparison.metric).unit,
            show=numbers.formatter(comparison.metric),
        ),
        draw_gap(series(gap_curve), folder),
    ]
    pictures = [picture for picture in drawn if picture is not None]
    for file in set(FILES) - {picture.file for picture in pictures}:
        (folder / file).unlink(missing_ok=True)
    return pictures
