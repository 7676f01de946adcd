"""YAML from strangers: plain values or one line, whatever it nests, repeats, merges or names."""

import os

import pytest

from gpt2lab.errors import ArchiveError
from gpt2lab.record.plain_yaml import MAX_BYTES, MAX_DEPTH, MAX_VALUES, read_yaml

ALIASES = "\n".join(f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" if i else "a0: &a0 [x]" for i in range(30))
MERGES = "\n".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" if i else "a0: &a0 {x: 1}" for i in range(30))


def test_plain_values_come_back(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("name: null\nrates: [1.0e-08, -3, 1:30]\nwords: {a: 'é', b: true}\n", encoding="utf-8")
    expected = {"name": None, "rates": [1e-8, -3, 90], "words": {"a": "é", "b": True}}
    assert read_yaml(path, dict) == expected


def test_many_brackets_that_do_not_nest_are_no_depth(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("\n".join(f"key{n}: [1, {{}}]" for n in range(MAX_DEPTH)))
    assert len(read_yaml(path, dict)) == MAX_DEPTH


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # Each of the first five ends the process when libyaml's loader follows it down the C stack.
        ("[" * 200_000, "nests deeper than 100"),
        ("{a: " * 60_000, "nests deeper than 100"),
        ("- " * 100_000, "nests deeper than 100"),
        ("? " * 100_000, "nests deeper than 100"),
        ("\n".join(" " * n + "a:" for n in range(700)), "nests deeper than 100"),
        ("\u2028".join(" " * n + "a:" for n in range(700)), "nests deeper than 100"),
        (ALIASES, f"more than {MAX_VALUES:,} values"),
        ("a: &a [*a]", f"more than {MAX_VALUES:,} values"),
        (MERGES, "merges mappings with <<"),
        ("a: 1" + ":1" * 100_000, r"a number of 200001 digits"),
        ("a: " + "1" * 5000, "a number of 5000 digits"),
        ("a: !!python/object/apply:os.mkdir [made]", "could not determine a constructor for the tag"),
        ("a: !!python/name:os.system", "could not determine a constructor for the tag"),
        ("a: 2020-01-99", "day is out of range"),
        ("a: 1".encode("utf-16"), "can't decode byte"),
        (b"a: \xff", "can't decode byte"),
        ("a: \x1b[31m", "(special|control) characters are not allowed"),
        ("a: 'open", "end of stream"),
        ("[]", "expected a mapping, got list"),
        ("", "expected a mapping, got NoneType"),
    ],
)
def test_what_is_no_config_is_one_line(tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ArchiveError, match=message) as caught:
        read_yaml(path, dict)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(str(path))
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]


def test_an_empty_list_may_be_an_empty_file(tmp_path):
    path = tmp_path / "overrides.yaml"
    path.write_text("")
    assert read_yaml(path, list, empty=True) == []


def test_a_link_a_pipe_a_missing_and_an_oversized_file_are_named(tmp_path):
    outside = tmp_path / "outside.yaml"
    outside.write_text("secret: 1")
    (tmp_path / "link.yaml").symlink_to(outside)
    os.mkfifo(tmp_path / "pipe.yaml")
    with (tmp_path / "large.yaml").open("wb") as file:
        file.truncate(50 << 20)
    cases = {
        "link": "is a link; expected a plain file",
        "pipe": "is not a plain file",
        "large": f"has 52,428,800 bytes, and at most {MAX_BYTES:,}",
        "missing": "cannot read: no such file or directory",
    }
    for name, message in cases.items():
        with pytest.raises(ArchiveError, match=message):
            read_yaml(tmp_path / f"{name}.yaml", dict)
