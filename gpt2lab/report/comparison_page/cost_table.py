"""The table of a sweep's page that says what each arm costs, and how its banded products were done."""

from gpt2lab.model.band_tiles import PRODUCTS
from gpt2lab.report import numbers
from gpt2lab.report.comparison.costs import ArmCost
from gpt2lab.report.comparison.statistics import Estimate
from gpt2lab.report.comparison.sweep_cells import Cell
from gpt2lab.report.comparison.sweep_results import SweepResults
from gpt2lab.report.comparison_page.tables import Table, arm_cells, arm_heads
from gpt2lab.report.comparison_page.words import mean_std, sentence, signed_percent, two_digits

MATRICES = ("fc1", "fc2")
BLOCKS = (
    "Blocks: hidden units of the blocks over which products of a band went; dense: in one product, as blocks would not "
    "be faster or are switched off."
)


def cost_table(results: SweepResults) -> Table | None:
    """Steps, time and arithmetic to a loss that every arm reaches, and the speed of training."""
    costs = results.costs
    if not any(costs.cells):
        return None
    to = costs.target is not None
    others = [cost for index, cost in enumerate(costs.cells) if index != results.baseline] or costs.cells
    timed = to and any(cost is not None and cost.seconds is not None for cost in others)
    work = to and any(cost is not None and cost.flop_dense is not None for cost in costs.cells)
    less = work and any(cost is not None and _differ(cost.flop_computed, cost.flop_dense) for cost in costs.cells)
    several = len(costs.cells) > 1
    blocks = [blocks_words(cell) for cell in results.cells]
    heads = (
        *arm_heads(results),
        *(("Blocks, FC1 / FC2",) if any(blocks) else ()),
        *(("Steps",) if to else ()),
        *(("Training time (s)",) if timed else ()),
        *(("TFLOP, dense",) if work else ()),
        *(("TFLOP, computed",) if less else ()),
        "Tokens/s",
        *(("Time per token",) if several else ()),
        "Not training",
    )
    rows = tuple(
        (
            *arm_cells(results, index),
            *((blocks[index] or numbers.MISSING,) if any(blocks) else ()),
            *_cost_cells(cost, (to, timed, work, less, several), index == results.baseline),
        )
        for index, cost in enumerate(costs.cells)
    )
    goal = f"To a validation loss of {numbers.loss(costs.target)}, which every compared run reaches. " if to else ""
    below = f"{goal}{sentence(costs.reason) + ' ' if costs.reason else ''}"
    below += f"{sentence(costs.untimed) + ' ' if costs.untimed else ''}{costs.rule}"
    if any(blocks):
        below += f" {BLOCKS}"
    return Table(heads=heads, rows=rows, n_text=len(arm_heads(results)), below=below)


def _differ(one: Estimate | None, other: Estimate | None) -> bool:
    return one is not None and other is not None and one.mean != other.mean


def _cost_cells(cost: ArmCost | None, shown: tuple[bool, bool, bool, bool, bool], is_baseline: bool) -> tuple[str, ...]:
    to, timed, work, less, several = shown
    n = sum(shown) + 2
    if cost is None:
        return (numbers.MISSING,) * n
    overhead = "baseline" if is_baseline else numbers.MISSING
    if cost.overhead is not None:
        overhead = signed_percent(cost.overhead)
    return (
        *((mean_std(cost.step, numbers.count, two_digits),) if to else ()),
        *((mean_std(cost.seconds, numbers.rounded, two_digits),) if timed else ()),
        *((_tera(cost.flop_dense),) if work else ()),
        *((_tera(cost.flop_computed),) if less else ()),
        mean_std(cost.tokens_per_s, numbers.count, two_digits),
        *((overhead,) if several else ()),
        numbers.MISSING if cost.outside is None else numbers.percent(cost.outside.mean),
    )


def _tera(estimate: Estimate | None) -> str:
    return numbers.MISSING if estimate is None else numbers.rounded(estimate.mean / 1e12)


def blocks_words(cell: Cell) -> str | None:
    """Return the hidden units of the blocks over which products of FC1 and FC2 went; None without band or record."""
    if all(share == 1 for share in cell.density.values()):
        return None
    told = []
    for name in MATRICES:
        tiles = cell.runs[0].inputs.fact(f"provenance.model.mlp_tiles.{name}")
        if not isinstance(tiles, dict) or set(tiles) != set(PRODUCTS):
            return None
        told.append(", ".join(dict.fromkeys("dense" if size is None else str(size) for size in tiles.values())))
    return " / ".join(told)
