"""A damaged file in the archive: every command ends with 0, or with one line that names the file and exit code 5."""

from collections.abc import Callable

import pytest

from tests.test_hostile_archive import COMMANDS, FILES, archive, ending, two_experiments  # noqa: F401

DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda _: None,
    "empty": lambda _: b"",
    "torn": lambda content: content[: 3 * len(content) // 5],
    "wrong bytes": lambda content: content[:10] + b"\xff\x00\x1b" + content[13:],
    "another kind": lambda _: b"[[1, 2], 'x\n",
}
READING = [name for name in COMMANDS if name not in ("report", "import")]  # a report writes files anew


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_damage_is_one_line_that_names_the_file(archive, ending, name, damage):  # noqa: F811
    content = DAMAGES[damage]((archive / name).read_bytes())
    (archive / name).unlink()
    if content is not None:
        (archive / name).write_bytes(content)
    for command in (*READING, "report"):
        code, out, err = ending(command)
        expected = (0, err.count("left out: ")) if command in ("sql", "where") else (code, int(code == 5))
        assert (code, err.count("\n")) == expected and code in (0, 5), (command, err)
        assert code == 0 or name in out + err or "source.tar.gz" in err, (command, err)
        if command in ("verify", "export"):
            assert name in out + err, command
