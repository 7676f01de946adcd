"""Findings of a sweep: what they claim, and on how many seeds."""

import json
from pathlib import Path

import pytest

from gpt2lab.model.band_tiles import PRODUCTS
from gpt2lab.record.metrics import MetricsWriter, read_metrics
from gpt2lab.report.analysis import Finding
from gpt2lab.report.comparison.sweep_results import read_sweep_results
from gpt2lab.report.comparison_page.sentences import find_in_sweep
from gpt2lab.report.comparison_page.tables import cost_table
from tests.sweep_records import write_banded_sweep


@pytest.fixture
def banded(tmp_path: Path) -> Path:
    return write_banded_sweep(tmp_path / "banded", widths=(256,))


def findings(sweep: Path) -> dict[str, Finding]:
    return {found.topic: found for found in find_in_sweep(read_sweep_results(sweep))}


def keep_seed(sweep: Path, seed: int) -> None:
    plan = json.loads((sweep / "sweep.json").read_text())
    plan["jobs"] = [job for job in plan["jobs"] if job["values"]["seed"] == seed]
    (sweep / "sweep.json").write_text(json.dumps(plan))


def test_findings_of_means_carry_n_and_spread(banded: Path) -> None:
    for path in banded.glob("runs/*fc1_band=256-fc2_band=0-*/metrics.csv"):
        rows = read_metrics(path)
        path.unlink()
        with MetricsWriter(path) as writer:
            for each in rows:
                writer.append(each | {"train_eval_loss": each["train_eval_loss"] and each["train_eval_loss"] - 0.3})
    found = findings(banded)
    assert "over 3 seeds, before" in found["best"].text
    gap = found["gap"].text
    assert "means over 3 seeds, not tested: smallest in" in gap and "largest in fc1_band=256 fc2_band=0 (" in gap
    assert "(n = 3)" in found["matched loss"].text
    assert "means over 3 seeds, not tested" in found["cost"].text
    assert found["cost"].verdict.endswith(": lowest mean fc1_band=0 fc2_band=0")  # it falls furthest


def test_findings_name_no_order_of_equal_means(banded: Path) -> None:
    for seed in (1, 2, 3):
        first, *others = sorted(banded.glob(f"runs/*seed={seed}/metrics.csv"))
        for path in others:
            path.write_bytes(first.read_bytes())
    found = findings(banded)
    assert "best" not in found and found["cost"].verdict.endswith(": no order")
    assert found["gap"].text.endswith("no order among the arms.")


def test_findings_name_no_order_of_arms_with_one_seed(banded: Path) -> None:
    keep_seed(banded, 1)
    found = findings(banded)
    assert "best" not in found and "matched loss" not in found and found["cost"].verdict.endswith(": no order")


def test_times_on_other_machines_are_not_ranked(banded: Path) -> None:
    for path in banded.glob("runs/*/provenance.json"):
        if "-fc1_band=0-fc2_band=0-" not in str(path):
            changed = json.loads(path.read_text())
            changed["platform"]["cpu"] = "another"
            path.write_text(json.dumps(changed))
    found = findings(banded)["cost"]
    assert found.verdict.endswith("not compared") and "other hardware (cpu: " in found.text
    table = cost_table(read_sweep_results(banded))
    assert table is not None and "Training time (s)" not in table and "| Steps |" in table


def test_the_costs_say_over_which_blocks_products_of_a_band_went(banded: Path) -> None:
    older = cost_table(read_sweep_results(banded))
    assert older is not None and "| Blocks" not in older
    for path in banded.glob("runs/*/provenance.json"):
        found = json.loads(path.read_text())
        tiles = {
            name: dict.fromkeys(PRODUCTS, 64 if found["model"][f"{name}_band"] else None) for name in ("fc1", "fc2")
        }
        tiles["fc1"]["weight"] = None
        path.write_text(json.dumps(found | {"model": found["model"] | {"mlp_tiles": tiles}}))
    table = cost_table(read_sweep_results(banded))
    assert table is not None
    heads, _, *rows = [row.strip("| ").split(" | ") for row in table.splitlines() if row.startswith("|")]
    assert heads[2] == "Blocks, FC1 / FC2" and "Blocks: hidden units" in table
    shown = {tuple(row[:2]): row[2] for row in rows}
    assert shown["256", "0"] == "64, dense / dense" and shown["0", "256"] == "dense / 64"
    assert shown["**0**", "**0**"] == "–"
