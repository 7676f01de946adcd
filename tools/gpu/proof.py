"""Runs the proofs of tests/proofs on a device: every op, in every precision that it has."""

import functools
import importlib
import math
import pkgutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import proofs
from proof import Check

from gpt2lab.engine.cuda.device import Device
from gpt2lab.schema import Precision

PRODUCTS = ("gemm", "linear")  # what tf32 makes a difference to


def op_proofs(only: list[str] | None = None) -> dict[str, Callable[[Device, Precision], Iterator[Check]]]:
    """Return {op: its `check`}, of all modules in tests/proofs that have one."""
    modules = {
        info.name: importlib.import_module(f"proofs.{info.name}") for info in pkgutil.iter_modules(proofs.__path__)
    }
    found = {name: module.check for name, module in modules.items() if hasattr(module, "check")}
    if unknown := set(only or []) - set(found):
        raise ValueError(f"no proof is named {', '.join(sorted(unknown))}; there are {', '.join(found)}")
    return {name: check for name, check in found.items() if only is None or name in only}


def prove_ops(device: Device, only: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield what each op's proof found, in each precision."""
    for name, check in op_proofs(only).items():
        for precision in Precision:
            if precision is not Precision.tf32 or name in PRODUCTS:
                yield summary(name, precision.name, functools.partial(check, device, precision))


def summary(name: str, precision: str, run: Callable[[], Iterator[Check]]) -> dict[str, Any]:
    """Run checks and return how many there were, which failed, and which came closest to its tolerance."""
    started = time.perf_counter()
    checks: list[Check] = []
    failed: list[str] = []
    try:
        for check in run():
            checks.append(check)
            if not check.passed:
                failed.append(str(check))
    except Exception as error:  # a fault of the card, say: the others are still to be run
        failed.append(f"{name}: stopped by {type(error).__name__}: {error}")
    if not checks and not failed:
        failed.append(f"{name}: made no checks")
    # Those that allow nothing, equal bits, would come first at any error.
    measured = [check for check in checks if check.tolerance > 0]
    worst = max(measured, key=lambda c: math.inf if math.isnan(c.error) else c.error / c.tolerance, default=None)
    return {
        "name": name,
        "precision": precision,
        "n_checks": len(checks),
        "failed": failed,
        "worst": worst and {"check": worst.name, "error": worst.error, "tolerance": worst.tolerance},
        "seconds": time.perf_counter() - started,
    }
