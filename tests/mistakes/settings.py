"""Mistakes in what a run is told to do: schema, compose and the commands."""

from mistakes.mistake import mistake

MISTAKES = (
    mistake(
        "the last position of a counted span is left out",
        "gpt2lab/schema/run.py",
        "tuple(range(first, last + 1))",
        "tuple(range(first, last))",
        "test_schema.py::test_counted_positions_are_those_of_the_rule",
    ),
    mistake(
        "an infinite setting is accepted",
        "gpt2lab/schema/groups.py",
        "not minimum <= value < math.inf",
        "not minimum <= value",
        "test_schema.py",
    ),
    mistake(
        "an infinite threshold to stop at is accepted",
        "gpt2lab/schema/groups.py",
        "if math.isfinite(number):",
        "if not math.isnan(number):",
        "test_schema.py",
    ),
    mistake(
        "an earlier override replaces a later one",
        "gpt2lab/compose/resume.py",
        "for override in overrides}",
        "for override in reversed(overrides)}",
        "test_resume.py::test_a_longer_run_records_how_long_it_was_to_be",
    ),
    mistake(
        "of a grid only the first two jobs are compared",
        "gpt2lab/compose/grid.py",
        "for value in values)]",
        "for value in values[:2])]",
        "test_grid.py::test_a_grid_is_what_hydra_makes_of_the_command_line",
    ),
    mistake(
        "every error of a run ends with the exit code of a bad config",
        "gpt2lab/errors.py",
        "codes.append(code)",
        "codes.append(2)",
        "test_run.py::test_token_files_with_ids_above_the_vocabulary_are_refused",
    ),
    mistake(
        "every error of a command ends with exit code 1",
        "gpt2lab/cli/main.py",
        "sys.exit(codes[-1])",
        "sys.exit(1)",
        "test_cli.py::test_nonsense_is_one_line_and_its_exit_code",
    ),
    mistake(
        "an operating system's error without a file is taken for the user's",
        "gpt2lab/errors.py",
        "isinstance(error, OSError) and (error.filename is not None or error.errno in (errno.ENOSPC, errno.EDQUOT)):",
        "isinstance(error, OSError):",
        "test_errors.py",
    ),
    mistake(
        "the traceback of an internal error is lost",
        "gpt2lab/record/rundir.py",
        'write_atomic(self.traceback, "".join(traceback.format_exception(error)).encode())',
        "pass",
        "test_errors.py",
    ),
    mistake(
        "gc deletes without being told to",
        "gpt2lab/cli/gc.py",
        "delete(root, runs, folders) if really",
        "delete(root, runs, folders) if not really",
        "test_gc.py::test_the_command_is_a_dry_run_until_it_is_told_to_delete",
    ),
    mistake(
        "an escape code reaches the terminal",
        "gpt2lab/cli/terminal.py",
        r'char in "\n\t" else',
        r'char in "\n\t\x1b" else',
        "test_terminal.py",
    ),
    mistake(
        "verify ends with success where an experiment differs",
        "gpt2lab/cli/trust.py",
        "if differing:",
        "if differing > len(paths):",
        "test_verify.py::test_the_command_prints_a_line_each_and_ends_with_5_when_one_differs",
    ),
)
