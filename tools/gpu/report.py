"""The record of a check: one JSON file, and the same as tables to read."""

import importlib.metadata
import json
import math
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from checkout import read_commit

from gpt2lab.engine.cuda.device import Device
from gpt2lab.engine.torch.device import device_details
from gpt2lab.errors import EngineError

PACKAGES = ("numpy", "torch", "triton", "cupy-cuda13x", "cupy-cuda12x", "nvmath-python", "cuda-bindings")
REHEARSAL = "REHEARSAL: tiny shapes; these figures say nothing about the speed of anything"


def new_record(device: Device, *, rehearsal: bool, commit: str | None, chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a check that begins now; `chosen` is what makes it less than the whole."""
    return {
        "rehearsal": rehearsal,
        "about": REHEARSAL if rehearsal else "tools/gpu_check.py",
        "complete": False,
        "chosen": chosen,
        "errors": [],
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit or read_commit(),
        "device": {"kind": device.name, "name": device.device_name, **device.details},
        "versions": read_versions(device),
        "seconds": 0.0,
        "predicted_seconds": 0.0,
        "proof": None,
        "ceilings": None,
        "kernels": None,
        "bands": None,
        "steps": None,
    }


def read_versions(device: Any) -> dict[str, Any]:
    """Return versions, None for what is not there. Raises EngineError when a card's bindings are missing."""
    found: dict[str, Any] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    found |= {"driver": None, "driver_cuda": None, "runtime_cuda": None, "torch_cuda": torch.version.cuda}
    found["cublas"] = found["cublaslt"] = None
    if device.name == "cuda":
        try:
            from nvmath.bindings import cublas, cublasLt
        except ImportError as error:
            raise EngineError(f"nvmath-python cannot be imported ({error}): carry it beside this tool") from None
        if torch.cuda.is_available():
            found["driver"] = device_details(torch.device("cuda")).get("driver")
        found["driver_cuda"], found["runtime_cuda"] = device.details["driver_cuda"], device.details["runtime_cuda"]
        handle = cublas.create()
        found["cublas"] = cublas.get_version(handle)
        cublas.destroy(handle)
        found["cublaslt"] = cublasLt.get_version()
    return found


def path_of(record: dict[str, Any], folder: Path) -> Path:
    """Return the file of a record: named after device and date, and after what it is."""
    kind = "rehearsal" if record["rehearsal"] else "gpu-check"
    chosen = record["chosen"]  # a part must not replace the whole of the same day
    parts = [kind, record["device"]["name"], record["date"][:10], *chosen, *chosen.get("cases", [])]
    return folder / ("-".join("".join(c if c.isalnum() else " " for c in " ".join(parts).lower()).split()) + ".json")


def write(record: dict[str, Any], folder: Path) -> Path:
    """Write the record, replacing what an earlier part of this check wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(record, folder)
    path.write_text(json.dumps(_plain(record), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it: nan and infinity, which a proof that fails may find, in words."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows as columns of text, the first to the left and the others to the right."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def proof_table(found: list[dict[str, Any]]) -> str:
    """Return one line per op and precision, then what failed."""
    rows = []
    for each in found:
        worst = each["worst"]
        rows.append(
            [
                f"{each['name']} {each['precision']}",
                str(each["n_checks"]),
                str(len(each["failed"])),
                f"{worst['error']:.1e} of {worst['tolerance']:.1e}" if worst else "",
                f"{each['seconds']:.1f}",
            ]
        )
    failures = [f"FAILED {each['name']} {each['precision']}: {line}" for each in found for line in each["failed"]]
    return "\n".join([table(["proof", "checks", "failed", "worst error", "s"], rows), *failures])


def ceilings_table(ceilings: dict[str, Any]) -> str:
    copy = ceilings["copy"]
    rows = [
        [f"{each['product']} {each['precision']}", "x".join(map(str, each["shape"])), _us(each), _tflop(each)]
        for each in ceilings["gemm"]
    ]
    return f"copy: {copy['gb_per_s']:,.1f} GB/s read and written\n" + table(["product", "MxNxK", "us", "TFLOP/s"], rows)


def kernels_table(kernels: list[dict[str, Any]], ceilings: dict[str, Any] | None) -> str:
    rows, copy = [], ceilings and ceilings["copy"]["gb_per_s"]
    for each in kernels:
        rate = each["gb_per_s"]
        of_copy = f"{rate / copy:.0%}" if rate and copy else ""
        rows.append(
            [
                f"{each['kernel']} {each['precision']}",
                _us(each),
                f"{rate:,.0f}" if rate else "",
                of_copy,
                _tflop(each) if each["tflop_per_s"] else "",
            ]
        )
    return table(["kernel", "us", "GB/s", "of copy", "TFLOP/s"], rows)


def bands_table(found: list[dict[str, Any]]) -> str:
    """Return the fastest tile of each product beside the dense product; below, all products of an MLP together."""
    rows, together = [], dict[tuple[str, int], list[float]]()
    products: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for each in found:
        products.setdefault((each["precision"], each["band"], each["product"]), []).append(each)
    for (precision, band, product), variants in products.items():
        dense = next(each for each in variants if each["tile"] is None)
        best = min(variants, key=lambda each: each["seconds"]["median"])
        times = [each["seconds"]["median"] for each in (dense, best)]
        sums = together.setdefault((precision, band), [0.0, 0.0])
        sums[:] = [total + time for total, time in zip(sums, times, strict=True)]
        tile = "dense" if best["tile"] is None else str(best["tile"])
        rows.append([f"{product} {precision}, band {band}", _us(dense), tile, _us(best), f"{times[0] / times[1]:.2f}"])
    lines = [
        f"MLP {precision}, band {band}: {1e6 * dense:,.1f} us dense, {1e6 * best:,.1f} us at best: {dense / best:.2f}"
        for (precision, band), (dense, best) in together.items()
    ]
    return "\n".join([table(["product", "dense us", "tile", "us", "ratio"], rows), *lines])


def steps_table(steps: list[dict[str, Any]], gemm_ceilings: dict[str, float]) -> str:
    """Return a line per case and side; below, what was left out or did not fit.

    A ratio is how many times longer that side takes than ours. Operations are those of the dense model (6N + 12LCT per
    token), whatever a side computes.
    """
    rows, remarks = [], []
    for each in steps:
        ceiling = gemm_ceilings.get(each["precision"])
        for side, ratio in (("ours", None), ("everything", each["saved"]), ("torch", each["ratio"])):
            if not each[side]:
                continue
            found = each[side]
            names = {"ours": "gpt2lab", "everything": "gpt2lab, everything computed"}
            memory = found.get("peak_mem_mib")
            rows.append(
                [
                    f"{each['case']}, {names.get(side) or 'torch ' + found['variant']}",
                    f"{found['tokens_per_s']:,.0f}",
                    f"{found['ms']['median']:.3f}",
                    f"{found['ms']['q1']:.3f}-{found['ms']['q3']:.3f}",
                    f"{ratio['median']:.3f}" if ratio else "",
                    f"{ratio['q1']:.3f}-{ratio['q3']:.3f}" if ratio else "",
                    f"{memory:,.0f}" if memory else "",
                    f"{found['tflop_per_s']:,.2f}",
                    f"{found['tflop_per_s'] / ceiling:.0%}" if ceiling else "",
                ]
            )
        remarks += [f"{each['case']}: {note}" for note in each["notes"]]
        if each["status"] != "ok":
            remarks.append(f"{each['case']}: {each['status']}")
    head = ["step", "tokens/s", "ms", "quartiles", "ratio", "quartiles", "MiB", "dense TFLOP/s", "of GEMM"]
    return "\n".join([table(head, rows), *remarks])


def gemm_ceilings(ceilings: dict[str, Any] | None) -> dict[str, float]:
    """Return {precision: the highest rate of any product}."""
    best: dict[str, float] = {}
    for each in (ceilings or {"gemm": []})["gemm"]:
        best[each["precision"]] = max(best.get(each["precision"], 0.0), each["tflop_per_s"])
    return best


def first_line(error: BaseException) -> str:
    """Return the kind of an error and the first line that it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _us(each: dict[str, Any]) -> str:
    return f"{1e6 * each['seconds']['median']:,.1f}"


def _tflop(each: dict[str, Any]) -> str:
    return f"{each['tflop_per_s']:,.2f}"
