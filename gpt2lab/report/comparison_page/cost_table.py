"""The table of a sweep's page that says what each arm costs, and how its banded products were done."""

from collections.abc import Callable

from gpt2lab.model.band_tiles import PRODUCTS
from gpt2lab.report import numbers
from gpt2lab.report.comparison.costs import ArmCost
from gpt2lab.report.comparison.statistics import Estimate
from gpt2lab.report.comparison.sweep_cells import Cell
from gpt2lab.report.comparison.sweep_results import SweepResults
from gpt2lab.report.comparison_page.tables import arm_columns
from gpt2lab.report.comparison_page.words import mean_std, sentence, signed_percent, two_digits
from gpt2lab.report.markdown import Markdown, TableColumn, columns_table

MATRICES = ("fc1", "fc2")
BLOCKS = (
    "Blocks: hidden units of the blocks over which products of a band went; dense: in one product, as blocks would not "
    "be faster or are switched off."
)


def cost_table(results: SweepResults) -> Markdown | None:
    """Steps, time and arithmetic to a loss that every arm reaches, and the speed of training."""
    costs, arms = results.costs, arm_columns(results)
    told = [cost for cost in costs.cells if cost is not None]
    if not told:
        return None
    to = costs.target is not None
    others = [cost for index, cost in enumerate(costs.cells) if cost and index != results.baseline]
    timed = to and any(cost.seconds for cost in (others if len(costs.cells) > 1 else told))
    work = to and any(cost.flop_dense for cost in told)
    pairs = [(cost.flop_computed, cost.flop_dense) for cost in told]
    less = work and any(computed and dense and computed.mean != dense.mean for computed, dense in pairs)
    blocks = [blocks_words(cell) for cell in results.cells]

    def cells(show: Callable[[ArmCost], str]) -> list[str]:
        return [numbers.MISSING if cost is None else show(cost) for cost in costs.cells]

    overhead = cells(lambda cost: numbers.MISSING if cost.overhead is None else signed_percent(cost.overhead))
    if costs.cells[results.baseline] is not None:
        overhead[results.baseline] = "baseline"
    columns: list[TableColumn | None] = [
        ("Blocks, FC1 / FC2", [words or numbers.MISSING for words in blocks]) if any(blocks) else None,
        ("Steps", cells(lambda cost: mean_std(cost.step, numbers.count, two_digits))) if to else None,
        ("Training time (s)", cells(lambda c: mean_std(c.seconds, numbers.rounded, two_digits))) if timed else None,
        ("TFLOP, dense", cells(lambda cost: _tera(cost.flop_dense))) if work else None,
        ("TFLOP, computed", cells(lambda cost: _tera(cost.flop_computed))) if less else None,
        ("Tokens/s", cells(lambda cost: mean_std(cost.tokens_per_s, numbers.count, two_digits))),
        ("Time per token", overhead) if len(costs.cells) > 1 else None,
        ("Not training", cells(lambda cost: numbers.percent(cost.outside.mean if cost.outside else None))),
    ]
    goal = f"To a validation loss of {numbers.loss(costs.target)}, which every compared run reaches." if to else ""
    said = (goal, sentence(costs.reason or ""), sentence(costs.untimed or ""), costs.rule, BLOCKS * any(blocks))
    return columns_table([*arms, *columns], len(arms), below=" ".join(filter(None, said)))


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
