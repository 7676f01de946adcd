"""Write the table of cuda/README.md: what each kernel occupies, compiled for three architectures without a card.

python tools/kernels.py           rewrite what stands between the markers
python tools/kernels.py --check   change nothing; exit with 1 when cuda/README.md differs
"""

import sys
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from gpt2lab.engine.cuda.device.offline import ARCHITECTURES, KernelResources, kernel_resources

README = Path(__file__).resolve().parent.parent / "cuda" / "README.md"
BEGIN, END = "<!-- kernels: begin -->\n", "<!-- kernels: end -->\n"


def rows(found: Iterable[KernelResources]) -> Iterator[str]:
    """Yield the lines of the table, one per kernel and variant."""
    yield f"| kernel | variant | {' | '.join(f'sm_{a}' for a in ARCHITECTURES)} | shared bytes |"
    yield "| --- | --- |" + " --- |" * (len(ARCHITECTURES) + 1)
    by_variant = sorted(found, key=lambda r: (r.file, r.kernel, r.variant, r.architecture))
    for (kernel, variant), group in groupby(by_variant, key=lambda r: (r.kernel, r.variant)):
        each = list(group)
        registers = " | ".join(str(r.registers) for r in each)
        shared = ", ".join(str(size) for size in sorted({r.shared_bytes for r in each}))
        yield f"| `{kernel}` | {variant} | {registers} | {shared} |"


def with_table(readme: str, found: Iterable[KernelResources]) -> str:
    """Return the README with the table between its markers made anew."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + "\n".join(rows(found)) + "\n" + END + after


def main() -> None:
    current = README.read_text(encoding="utf-8")
    try:
        wanted = with_table(current, kernel_resources())
    except ImportError as error:  # PackageNotFoundError too
        raise SystemExit(
            f"NVRTC and its bindings are missing ({error}): pip install -c constraints.txt -e '.[dev]'"
        ) from None
    if current == wanted:
        return
    if "--check" in sys.argv[1:]:
        raise SystemExit("cuda/README.md is not current: run python tools/kernels.py")
    README.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
