"""The command that says what can be deleted, and deletes it when asked to."""

import json
from pathlib import Path

import click

from gpt2lab.archive.gc import JudgedFolder, delete, find_garbage
from gpt2lab.cli.group import group, root_option
from gpt2lab.cli.terminal import printable


@group.command()
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
    folders = find_garbage(root, runs)
    kept = [folder for folder in folders if not folder.can_go]
    for folder in kept:
        _say(folder, "keep", as_json)
    freed = 0
    chosen = delete(root, runs, folders) if really else [folder for folder in folders if folder.can_go]
    for folder in chosen:
        freed += folder.bytes * folder.can_go
        _say(folder, ("deleted" if really else "can go") if folder.can_go else "keep", as_json)
    if not as_json:
        count = len(folders) - len(kept)
        words = "1 folder" if count == 1 else f"{count} folders"
        hint = "" if really or not count else "; gpt2lab gc --delete deletes them"
        total = f"{words} of {len(folders)}, {freed:,} bytes{hint}"
        click.echo(total if folders else f"{runs} and {root} hold no run and nothing that a snapshot left")


def _say(folder: JudgedFolder, what: str, as_json: bool) -> None:
    if as_json:
        entry = {"path": str(folder.path), "kind": folder.kind, "verdict": what, "why": folder.why}
        click.echo(json.dumps({**entry, "bytes": folder.bytes}))
    else:
        why = printable(" ".join(folder.why.split()))
        click.echo(f"{what:<7}  {folder.path}  ({folder.bytes:,} bytes): {why}")
