"""The command group: which commands there are, and how errors end."""

import os
import sys

import click

from gpt2lab import __version__
from gpt2lab.cli import archive, compare, data, doctor, evaluate, gc, model, reproduce, sql, trust
from gpt2lab.cli.terminal import printable
from gpt2lab.errors import TRACEBACK_VARIABLE, describe_error, discard_output, is_closed_pipe


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gpt2lab")
def group() -> None:
    """Train GPT-2-scale models as tracked runs, and keep them as experiments."""


@group.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("overrides", nargs=-1, type=click.UNPROCESSED)
def run(overrides: tuple[str, ...]) -> None:
    """Train: the same as `python -m gpt2lab.run [OVERRIDES]`.

    `gpt2lab run --help` lists the config groups, `gpt2lab run --cfg job` every key.
    """
    from gpt2lab.run import main as run_main

    sys.exit(run_main(list(overrides)))


FILES = (archive, compare, data, doctor, evaluate, gc, model, reproduce, sql, trust)
for command in (command for file in FILES for command in file.COMMANDS):
    group.add_command(command)


def complete() -> None:
    """Answer the shell's completion, which Hydra's script asks of the executable itself.

    Install it with `eval "$(gpt2lab run -sc install=bash)"`.
    """
    line = os.environ.get("COMP_LINE", "").split(" ")
    if line[1:2] == ["run"] and len(line) > 2:
        os.environ["COMP_LINE"] = " ".join([line[0], *line[2:]])
        from gpt2lab.run import main as run_main

        run_main(["-sc", "query=bash"])
    else:
        print("\n".join(group.commands))


def main() -> None:
    """Entry point of the console script. An error is one line and its exit code, a closed pipe its exit code alone."""
    try:
        try:
            _main()
        finally:
            sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as error:
        if not is_closed_pipe(error):
            raise
        sys.exit(discard_output())


def _main() -> None:
    if sys.argv[1:] == ["-sc", "query=bash"]:
        return complete()
    try:
        # As click's main does, which keeps a closed pipe to itself.
        with group.make_context("gpt2lab", sys.argv[1:]) as context:
            group.invoke(context)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(0)
    except click.ClickException as error:
        print(f"gpt2lab: {printable(error.format_message())}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, EOFError, click.Abort):
        sys.exit(130)
    except Exception as error:
        if is_closed_pipe(error) or os.environ.get(TRACEBACK_VARIABLE):
            raise
        line, code = describe_error(error)
        print(f"gpt2lab: {printable(line)}", file=sys.stderr)
        sys.exit(code)
