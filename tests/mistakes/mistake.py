"""What one deliberate mistake is."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mistake:
    """A small change of one file that some of the named tests must find.

    `tests` are files or tests of tests/, the narrowest that should find it: "test_x.py" or "test_x.py::test_y[z]".
    """

    name: str
    file: str  # from the project's root
    old: str  # occurs exactly once in the file
    new: str
    tests: tuple[str, ...]


def mistake(name: str, file: str, old: str, new: str, *tests: str) -> Mistake:
    """Return a mistake with its tests written one after another."""
    return Mistake(name, file, old, new, tests)
