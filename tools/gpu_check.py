"""Proves the CUDA core on a card, measures the card's ceilings, and times training steps beside PyTorch.

python tools/gpu_check.py                            all of it on the card at hand; JSON into tools/benchmarks/
python tools/gpu_check.py --cases 124M --skip-torch  only steps whose name contains 124M, and only ours
python tools/gpu_check.py --device host --rehearse   the same code with tiny shapes on a processor

Needs numpy, cupy and torch, nvmath for the products, and this checkout. Ends with 0 when everything was proven and
measured, 1 when a proof or a case failed, 2 when there is nothing to run on.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).resolve().parent
BENCHMARKS = TOOLS / "benchmarks"
# This checkout, whatever may be installed; and its proofs, which are part of its tests.
sys.path[:0] = [str(TOOLS.parent), str(TOOLS), str(TOOLS.parent / "tests")]

from gpu import report  # noqa: E402
from gpu.bands import measure_bands  # noqa: E402
from gpu.cases import MEASURING_SECONDS, PROOF_SECONDS, chosen_cases  # noqa: E402
from gpu.ceilings import measure_copy, measure_products  # noqa: E402
from gpu.clock import Budget  # noqa: E402
from gpu.kernels import measure_kernels  # noqa: E402
from gpu.proof import op_proofs, prove_ops  # noqa: E402
from gpu.step_proof import prove_steps  # noqa: E402
from gpu.steps import time_cases  # noqa: E402

from gpt2lab.engine.cuda.device import Device, open_device  # noqa: E402
from gpt2lab.errors import EngineError  # noqa: E402
from gpt2lab.schema import DeviceChoice, Precision  # noqa: E402


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; return the exit code."""
    options = read_options(arguments)
    started = time.perf_counter()
    try:
        device = open_device(DeviceChoice[options.device])
        require_torch(options)
        record = report.new_record(device, rehearsal=options.rehearse, commit=options.commit, chosen=chosen(options))
    except EngineError as error:
        print(error, file=sys.stderr)
        return 2
    run = Run(options, record, Budget(options.budget))
    print(f"{record['device']['name']}, commit {record['commit']}: about {record['predicted_seconds']:.0f} s")
    if options.rehearse:
        print(report.REHEARSAL)
    run.prove(device)
    if run.failed and not options.time_anyway:
        print("not timed: something above failed")
    else:
        run.measure_ceilings(device)
        run.measure_kernels(device)
        run.measure_bands(device)
        run.time()
    record["complete"] = True
    path = run.save()
    print(f"{time.perf_counter() - started:.0f} s; {path}")
    return int(run.failed)


class Run:
    """One run of the tool: fills in the record part by part, and writes it after each."""

    def __init__(self, options: argparse.Namespace, record: dict[str, Any], budget: Budget) -> None:
        self.options, self.record, self.budget = options, record, budget
        self.failed = False
        self.cases = chosen_cases(options.cases, rehearsal=options.rehearse)
        before = MEASURING_SECONDS + PROOF_SECONDS * (not options.skip_proof)
        record["predicted_seconds"] = before + sum(case.seconds for case in self.cases)
        case = chosen_cases(["124M 16x1024 bf16"], rehearsal=options.rehearse)[0]
        self._model, self._B, self._T = case.model, case.batch_size, case.seq_len

    def save(self) -> Path:
        """Write the record as it is now; return its file."""
        self.record["seconds"] = self.budget.spent
        return report.write(self.record, self.options.out)

    def prove(self, device: Device) -> None:
        """Run the proofs of every op, and of the whole step."""
        if self.options.skip_proof:
            return
        self.record["proof"] = found = []
        for each in prove_ops(device, self.options.proofs):
            found.append(each)
            self.save()
        for each in prove_steps(device, quick=self.options.rehearse):
            found.append(each)
            self.save()
        self.failed = any(each["failed"] for each in found)
        print("\n" + report.proof_table(found))

    def measure_ceilings(self, device: Device) -> None:
        """Measure copies, and products at the step's shapes."""
        small = self.options.rehearse
        gemm: list[dict[str, Any]] = []
        with self._goes_on("ceilings"):
            copy = measure_copy(device, n_bytes=1 << (16 if small else 30))
            self.record["ceilings"] = {"copy": copy, "gemm": gemm}
            rows, square = self._B * self._T, 32 if small else 8192
            for precision in Precision:
                gemm.extend(measure_products(device, precision, self._model, rows, square=square))
            print("\n" + report.ceilings_table(self.record["ceilings"]))

    def measure_kernels(self, device: Device) -> None:
        """Measure the kernels one by one, against the copy ceiling."""
        self.record["kernels"] = kernels = list[dict[str, Any]]()
        with self._goes_on("kernels"):
            for precision in (Precision.bf16, Precision.fp32):
                kernels.extend(measure_kernels(device, precision, self._model, B=self._B, T=self._T))
            print("\n" + report.kernels_table(kernels, self.record["ceilings"]))

    def measure_bands(self, device: Device) -> None:
        """Compare the products of banded MLPs with dense ones, and time them with every tile."""
        self.record["bands"] = found = list[dict[str, Any]]()
        rows, n_embd, bands = (16, 32, (24,)) if self.options.rehearse else (65536, 768, (256, 512, 1024))
        with self._goes_on("bands"):
            for precision in (Precision.bf16, Precision.tf32):
                found.extend(measure_bands(device, precision, rows=rows, n_embd=n_embd, bands=bands))
            print("\n" + report.bands_table(found))

    @contextlib.contextmanager
    def _goes_on(self, part: str) -> Iterator[None]:
        """Write the record after a part; an error in it must not take the other parts' figures with it."""
        try:
            yield
        except Exception as error:
            self.failed = True
            self.record["errors"].append(f"{part}: {report.first_line(error)}")
            print(f"\n{self.record['errors'][-1]}")
        self.save()

    def time(self) -> None:
        """Time the training steps."""
        options = self.options
        print(f"\n{len(self.cases)} cases, {self.budget.left:.0f} s left")
        self.record["steps"] = rows = []
        timed = time_cases(
            self.cases,
            DeviceChoice[options.device],
            self.budget,
            skip_torch=options.skip_torch,
            rehearsal=options.rehearse,
        )
        for row in timed:
            rows.append(row)
            print(f"{row['case']}: {row['status']}, {row['seconds']:.0f} s", flush=True)
            self.failed = self.failed or row["status"].startswith("failed")
            self.save()
        print("\n" + report.steps_table(rows, report.gemm_ceilings(self.record["ceilings"])))


def chosen(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options that make a run less than the whole."""
    names = ("cases", "proofs", "skip_proof", "skip_torch", "time_anyway")
    return {name: getattr(options, name) for name in names if getattr(options, name)}


def require_torch(options: argparse.Namespace) -> None:
    """Raise EngineError when PyTorch, the other side, cannot use the card."""
    import torch

    if options.device == "cuda" and not options.skip_torch and not torch.cuda.is_available():
        raise EngineError(f"PyTorch {torch.__version__} finds no card: install one built for CUDA, or add --skip-torch")


def read_options(arguments: list[str] | None) -> argparse.Namespace:
    """Return the options, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "host"), default="cuda")
    parser.add_argument("--rehearse", action="store_true", help="tiny shapes; the record says so")
    parser.add_argument("--cases", nargs="+", metavar="NAME", help="time only cases whose name contains one of these")
    parser.add_argument("--proofs", nargs="+", metavar="OP", help="prove only these ops")
    parser.add_argument("--skip-proof", action="store_true")
    parser.add_argument("--skip-torch", action="store_true", help="time only our side")
    parser.add_argument("--time-anyway", action="store_true", help="time even when a proof failed")
    parser.add_argument("--budget", type=float, default=450.0, metavar="SECONDS", help="start no case beyond it")
    parser.add_argument("--commit", help="what the record names as commit, where there is no git")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the JSON")
    options = parser.parse_args(arguments)
    if options.device == "host" and not options.rehearse:
        parser.error("--device host needs --rehearse: a processor says nothing about a card")
    if options.out is None:
        options.out = Path(tempfile.gettempdir()) if options.rehearse else BENCHMARKS
    if options.rehearse and options.out.resolve() == BENCHMARKS:
        parser.error("--rehearse: tools/benchmarks/ is for figures of a card; name another folder with --out")
    try:
        op_proofs(options.proofs)
        chosen_cases(options.cases, rehearsal=options.rehearse)
    except ValueError as error:
        parser.error(str(error))
    return options


if __name__ == "__main__":
    sys.exit(main())
