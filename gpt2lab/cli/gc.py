"""The command that says what can be deleted, and deletes it when asked to."""

import json
from pathlib import Path
from typing import Any

import click

from gpt2lab.archive.gc import Finding, delete, find_garbage
from gpt2lab.cli.archive import root_option
from gpt2lab.cli.terminal import printable


@click.command()
@click.option(
    "--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="The run directories."
)
@click.option("--delete", "really", is_flag=True, help="Delete what can go.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per folder.")
@root_option
def gc(runs: Path, really: bool, as_json: bool, root: Path) -> None:
    """Say what can go, and why the rest stays; --delete deletes it.

    Runs and sweeps whose every file an experiment holds, by hash; runs that wrote nothing; what killed snapshots left.
    """
    findings = find_garbage(root, runs)
    kept = [finding for finding in findings if not finding.can_go]
    for finding in kept:
        _say(finding, "keep", as_json)
    freed = 0
    chosen = delete(root, runs, findings) if really else [finding for finding in findings if finding.can_go]
    for finding in chosen:
        freed += finding.bytes * finding.can_go
        _say(finding, ("deleted" if really else "can go") if finding.can_go else "keep", as_json)
    if not as_json:
        count = len(findings) - len(kept)
        folders = "1 folder" if count == 1 else f"{count} folders"
        hint = "" if really or not count else "; gpt2lab gc --delete deletes them"
        total = f"{folders} of {len(findings)}, {freed:,} bytes{hint}"
        click.echo(total if findings else f"{runs} and {root} hold no run and nothing that a snapshot left")


def _say(finding: Finding, what: str, as_json: bool) -> None:
    if as_json:
        entry: dict[str, Any] = {"path": str(finding.path), "kind": finding.kind, "verdict": what}
        click.echo(json.dumps({**entry, "why": finding.why, "bytes": finding.bytes}))
    else:
        why = printable(" ".join(finding.why.split()))
        click.echo(f"{what:<7}  {finding.path}  ({finding.bytes:,} bytes): {why}")


COMMANDS = (gc,)
