"""README.md says what the code says, and its links lead somewhere."""

import importlib.util
import json
import posixpath
import re
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest

from gpt2lab.compose import known_keys

PROJECT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def docs() -> ModuleType:
    """tools/docs.py."""
    spec = importlib.util.spec_from_file_location("docs", PROJECT / "tools" / "docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def links(markdown: str) -> list[str]:
    """Return the targets of Markdown and HTML links and pictures, those in code left out."""
    prose = re.sub(r"^(```|~~~).*?^\1|`[^`\n]*`", "", markdown, flags=re.M | re.S)
    # A label may itself hold a picture: [![alt](picture)](page).
    targets = re.findall(r"\]\(\s*<?([^)\s>]+)", prose) + re.findall(r"^\[[^]]+\]:\s*(\S+)", prose, flags=re.M)
    return targets + re.findall(r"\b(?:src|href)=[\"']([^\"']+)", prose)


def broken_links(page: str, markdown: str, files: set[str]) -> list[str]:
    """Return the relative links of the page at path `page` that lead to no file and no folder of `files`."""
    places = files | {parent.as_posix() for file in files for parent in Path(file).parents}
    local = [unquote(target.split("#")[0]) for target in links(markdown) if not re.match(r"[a-z][a-z0-9+.-]*:", target)]
    return [
        path
        for path in local
        if path and posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) not in places
    ]


def test_the_tables_of_the_readme_are_those_that_are_generated(docs: ModuleType) -> None:
    assert docs.main(["--check"]) == 0, "run python tools/docs.py"


def test_generating_twice_changes_nothing(docs: ModuleType) -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert docs.generate(docs.generate(text)) == docs.generate(text)


def test_a_changed_table_is_noticed_and_rewritten(
    docs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    readme = tmp_path / "README.md"
    readme.write_text(text.replace("| `seed` | `0` |", "| `seed` | `1` |"), encoding="utf-8")
    monkeypatch.setattr(docs, "README", readme)
    assert docs.main(["--check"]) == 1
    assert "python tools/docs.py" in capsys.readouterr().out
    assert docs.main([]) == 0
    assert readme.read_text(encoding="utf-8") == text


def test_a_missing_marker_is_named(docs: ModuleType) -> None:
    with pytest.raises(SystemExit, match="begin: options"):
        docs.generate("# gpt2lab\n")


def test_the_table_of_keys_holds_every_key_that_can_be_set(docs: ModuleType) -> None:
    documented = {row[0].strip("`") for row in docs.key_rows()}
    groups = {key.split(".")[0] for key in known_keys() if "." in key}
    assert documented == set(known_keys()) - groups


def test_the_table_of_options_holds_every_file_of_conf(docs: ModuleType) -> None:
    files = {f"{file.parent.name}={file.stem}" for file in (PROJECT / "conf").glob("*/*.yaml")}
    assert {row[0].split("`")[1] for row in docs.option_rows()} == files


def test_the_table_of_speed_takes_each_row_from_the_newest_record_that_has_it(
    docs: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(day: int, results: dict) -> None:
        about = {"date": f"2026-01-{day:02}T00:00:00+00:00", "device": f"CPU {day}", "cores": 2}
        about["versions"] = {"torch": "2.13"}
        (tmp_path / f"{99 - day}.json").write_text(json.dumps(about | {"results": results}))

    def figures(ratio: float) -> dict:
        return {"ratio": ratio, "ratio_q1": ratio - 0.1, "ratio_q3": ratio + 0.1}

    rows = docs.measured_rows
    monkeypatch.setattr(docs, "measured_rows", lambda: rows(tmp_path))
    record(1, {"bands": {"mlp 256": figures(9.0), "mlp 512": figures(3.0)}})
    record(2, {"bands": {"mlp 256": figures(4.5), "124M 256": figures(1.5)}})
    record(3, {"archive": {"list": {"median_s": 1.0}}})
    (tmp_path / "gpu-check.json").write_text(json.dumps({"date": "2026-02-01", "steps": []}))
    first, second, third, fourth = docs.speed_table().splitlines()[2:6]
    assert "| 4.500 (4.400 to 4.600) | at least 4 |" in first and "| 3.000 (2.900 to 3.100) | at least 2.5 |" in second
    assert third.endswith("| 1.500 (1.400 to 1.600) | at least 1.6: missed |")
    assert "not measured yet" in fourth
    assert docs.speed_table().endswith(
        "\n\nMeasured on: CPU 2, 2 cores, PyTorch 2.13, 2026-01-02; CPU 1, 2 cores, PyTorch 2.13, 2026-01-01."
    )


def test_a_bar_in_a_cell_does_not_split_it(docs: ModuleType) -> None:
    assert docs.table(["a"], [["x|y"]]).splitlines()[-1] == r"| x\|y |"


def test_every_relative_link_leads_to_a_file(tracked_files: list[str]) -> None:
    pages = [name for name in tracked_files if posixpath.basename(name) == "README.md"]
    assert "README.md" in pages
    broken = {p: broken_links(p, (PROJECT / p).read_text(encoding="utf-8"), set(tracked_files)) for p in pages}
    assert {page: targets for page, targets in broken.items() if targets} == {}


def test_a_broken_link_is_found() -> None:
    page = (
        "[a](here.md) [b](gone.md#top) ![c](figures/gone.svg 'title') [d](https://example.org) [e](#top) [f](..)\n"
        "`[code](gone)` [![g](gone%20too.png)](sub/) <img src='gone.png'>\n```\n[h](gone)\n```\n[i]: gone-as-well\n"
    )
    broken = broken_links("docs/README.md", page, {"docs/here.md", "docs/sub/x", "README.md"})
    assert sorted(broken) == ["figures/gone.svg", "gone too.png", "gone-as-well", "gone.md", "gone.png"]
