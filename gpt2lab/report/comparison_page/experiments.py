"""The page of a comparison of experiments: README.md and figures/ in a folder of the reader's choice."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gpt2lab.errors import ArchiveError
from gpt2lab.record.columns import column
from gpt2lab.record.disk import disk_errors
from gpt2lab.record.sweep import is_sweep
from gpt2lab.report.canvas import Picture, keep
from gpt2lab.report.comparison.arms import Run
from gpt2lab.report.comparison.compare import Comparison
from gpt2lab.report.comparison.trajectories import split_gap
from gpt2lab.report.comparison_page.arm_figures import draw_differences
from gpt2lab.report.comparison_page.curves_figure import Series, draw_gap, draw_metric
from gpt2lab.report.comparison_page.tables import main_caption, result_columns
from gpt2lab.report.comparison_page.words import count_verdicts, lowered, spread
from gpt2lab.report.inputs import Curve, Inputs
from gpt2lab.report.markdown import Markdown, TableColumn, columns_table, table
from gpt2lab.report.numbers import plural
from gpt2lab.report.page import in_short, write_page

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
    draw = partial(_draw, comparison, {run.name: run for run in runs})
    return write_page(directory, "comparison.md.j2", _context(comparison), draw)


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


def _context(comparison: Comparison) -> dict[str, Any]:
    name = column(comparison.metric).label
    notes = [*comparison.notes, *(f"left out: {run}: {why}" for run, why in comparison.left_out)]
    notes += [f"not compared: {names}: {', '.join(reasons)}" for names, reasons in comparison.apart]
    runs = sum(len(row.experiments) for row in comparison.rows)
    verdicts = [row.judgement.verdict for row in comparison.rows if row.judgement is not None]
    return {
        "title": f"{name} of {plural(len(comparison.rows), 'arm')}",
        "status": f"{plural(runs, 'run')} at step {comparison.step:,}",
        "in_short": in_short(lowered(count_verdicts(verdicts)) if verdicts else ""),
        "notes": notes,
        "main": _table(comparison),
        "sentences": [*(re.sub(r"(?<= )-(?=[0-9])", "−", text) for text in comparison.sentences), _floor(comparison)],
        "arms": table(("Arm", "Experiments"), [(row.label, ", ".join(row.experiments)) for row in comparison.rows], 2),
    }


def _table(comparison: Comparison) -> Markdown:
    rows = comparison.rows
    density, seeds = [row.density for row in rows], [str(row.estimate.n) for row in rows]
    columns = result_columns(comparison, rows, density=density, seeds=seeds, absent=[""] * len(rows))
    arms: TableColumn = ("Arm", [row.label for row in rows])
    return columns_table([arms, *columns], 2, below=main_caption(comparison, "the first arm"))


def _floor(comparison: Comparison) -> str:
    floor = comparison.floor
    if floor is None:
        return "Noise floor unknown: no setting has two runs, so no difference is a finding."
    return (
        f"Noise floor {spread(floor.std)}: the pooled standard deviation of {plural(floor.runs, 'run')} in "
        f"{plural(floor.groups, 'setting')} that differ in nothing but their seed."
    )


def _draw(comparison: Comparison, runs: dict[str, Run], folder: Path) -> list[Picture]:
    rows = comparison.rows

    def series(curve: Callable[[Inputs], Curve]) -> list[Series]:
        arms = [(row.label, [runs[name].inputs for name in row.experiments]) for row in rows]
        return [Series(label=label, curves=tuple(map(curve, inputs))) for label, inputs in arms]

    drawn = [
        draw_differences(((row.label, row) for row in rows), comparison, folder, baseline=rows[0].label),
        draw_metric(series(lambda inputs: inputs.curve(comparison.metric)), folder, comparison.metric),
        draw_gap(series(split_gap), folder),
    ]
    return keep(drawn, folder, FILES)
