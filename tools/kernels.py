"""Write the table of cuda/README.md: what each kernel occupies, compiled for three architectures without a card.

python tools/kernels.py           compile the files that changed since the table was written, and write it again
python tools/kernels.py --all     compile every file: after a change of NVRTC, or to prove the table
python tools/kernels.py --check   compile nothing; exit with 1 when a file changed since the table was written

Beside each file's rows stands a hash of its content and of the headers that it includes.
"""

import argparse
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from gpt2lab.engine.cuda.device.offline import ARCHITECTURES, KernelResources, kernel_resources, sources_hash

CUDA = Path(__file__).resolve().parent.parent / "cuda"
README = CUDA / "README.md"
BEGIN, END = "<!-- kernels: begin -->\n", "<!-- kernels: end -->\n"
HEAD = (
    f"| kernel | variant | {' | '.join(f'sm_{a}' for a in ARCHITECTURES)} | shared bytes |",
    "| --- | --- |" + " --- |" * (len(ARCHITECTURES) + 1),
)
_FILE = re.compile(r"^### `(\w+\.cu)` ([0-9a-f]+)\n\n(.*?)(?=^###|\Z)", re.MULTILINE | re.DOTALL)


def rows(found: Iterable[KernelResources]) -> Iterator[str]:
    """Yield the lines of one file's table, one per kernel and variant."""
    yield from HEAD
    by_variant = sorted(found, key=lambda r: (r.kernel, r.variant, r.architecture))
    for (kernel, variant), group in groupby(by_variant, key=lambda r: (r.kernel, r.variant)):
        each = list(group)
        registers = " | ".join(str(r.registers) for r in each)
        shared = ", ".join(str(size) for size in sorted({r.shared_bytes for r in each}))
        yield f"| `{kernel}` | {variant} | {registers} | {shared} |"


def tables(readme: str) -> dict[str, tuple[str, str]]:
    """Return {file: (hash of its sources, its table)} of the README."""
    return {file: (key, table.strip()) for file, key, table in _FILE.findall(readme.split(BEGIN)[1].split(END)[0])}


def current_hashes() -> dict[str, str]:
    """Return {file: hash of its sources} of cuda/."""
    return {path.name: sources_hash(path.name, CUDA) for path in sorted(CUDA.glob("*.cu"))}


def with_tables(readme: str, found: dict[str, tuple[str, str]]) -> str:
    """Return the README with these tables between its markers."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    parts = [f"### `{file}` {key}\n\n{table}\n" for file, (key, table) in sorted(found.items())]
    return before + BEGIN + "\n" + "\n".join(parts) + "\n" + END + after


def main() -> None:
    """Bring the tables up to date, or say that they are not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true", help="compile every file")
    parser.add_argument("--check", action="store_true", help="compile nothing, write nothing")
    arguments = parser.parse_args()
    readme = README.read_text(encoding="utf-8")
    known, hashes = tables(readme), current_hashes()
    if arguments.check:
        if {file: key for file, (key, _) in known.items()} != hashes:
            raise SystemExit("cuda/README.md is not current: run python tools/kernels.py")
        return
    found = {}
    try:
        for file, key in hashes.items():
            if not arguments.all and known.get(file, ("", ""))[0] == key:
                found[file] = known[file]
            else:
                found[file] = key, "\n".join(rows(kernel_resources(CUDA, file)))
    except ImportError as error:  # PackageNotFoundError too
        raise SystemExit(
            f"NVRTC and its bindings are missing ({error}): pip install -c constraints.txt -e '.[dev]'"
        ) from None
    README.write_text(with_tables(readme, found), encoding="utf-8")


if __name__ == "__main__":
    main()
