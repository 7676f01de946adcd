"""Mistakes in the archive: experiments that are made, checked, found, sent, run again and deleted."""

from mistakes.mistake import mistake

EXPERIMENTS = (
    mistake(
        "verify does not compare hashes",
        "gpt2lab/archive/verify.py",
        'if digest == entry["sha256"]:',
        "if digest:",
        "test_verify.py::test_one_changed_byte_in_any_file_is_found_and_named",
    ),
    mistake(
        "verify does not look for files that nobody listed",
        "gpt2lab/archive/verify.py",
        "extra = sorted(on_disk.keys() - manifest.keys())",
        "extra = sorted(manifest.keys() - manifest.keys())",
        "test_verify.py::test_missing_and_extra_files_are_named",
    ),
    mistake(
        "a key that is missing in a summary is not compared",
        "gpt2lab/archive/report_check.py",
        "and (key in archived or key not in _ADDED_LATER)",
        "and key in archived",
        "test_verify.py::test_a_key_that_is_gone_is_a_fault_whatever_wrote_the_report",
    ),
    mistake(
        "a new report takes a changed record into the manifest",
        "gpt2lab/archive/manifest.py",
        'frozenset({"README.md", "summary.json"})',
        'frozenset({"README.md", "summary.json", "metrics.csv"})',
        "test_store.py::test_a_new_report_is_taken_into_the_manifest_and_the_record_is_not",
    ),
    mistake(
        "the next number is the count of experiments",
        "gpt2lab/archive/store.py",
        "max((int(match[1]) for match in numbers if match), default=0)",
        "sum(1 for match in numbers if match)",
        "test_store.py::test_the_number_follows_the_highest_even_after_a_gap",
    ),
    mistake(
        "whether a run is archived already is not looked at under the lock",
        "gpt2lab/archive/store.py",
        "        _sync(staging)\n        _refuse_twice(root, run_id, step, force)",
        "        _sync(staging)",
        "test_store.py::test_a_run_that_is_archived_meanwhile_is_refused_under_the_lock",
    ),
    mistake(
        "a file that changes while it is copied is not noticed",
        "gpt2lab/archive/staging.py",
        "if before.get(path) != after.get(path):",
        "if path not in after:",
        "test_store_processes.py::test_a_run_that_writes_while_it_is_copied_is_refused",
    ),
    mistake(
        "a difference of just the tolerance is different",
        "gpt2lab/archive/agreement.py",
        "self.largest.relative <= tolerance",
        "self.largest.relative < tolerance",
        "test_agreement.py",
    ),
    mistake(
        "another source than the recorded one is executed",
        "gpt2lab/archive/reproduce.py",
        "if archived != recorded:",
        "if not archived:",
        "test_reproduce.py::test_a_source_that_is_not_the_recorded_one_is_refused",
    ),
    mistake(
        "an imported file is not compared with its hash",
        "gpt2lab/archive/transfer.py",
        'if digest != entry["sha256"]:',
        "if not digest:",
        "test_transfer.py::test_any_changed_byte_of_a_file_is_refused",
    ),
    mistake(
        "a source archive may write into the folder above",
        "gpt2lab/record/unpack.py",
        'part in ("", ".", "..")',
        'part in ("", ".")',
        "test_unpack.py::test_a_name_that_leads_elsewhere_or_cannot_be_shown_is_refused",
    ),
    mistake(
        "gc compares sizes alone",
        "gpt2lab/archive/gc.py",
        'status.st_size == entry.get("bytes") and file_sha256(path / name) == entry.get("sha256")',
        'status.st_size == entry.get("bytes")',
        "test_gc.py::test_a_run_that_is_not_what_was_archived_stays",
    ),
    mistake(
        "gc deletes the only way to continue a run",
        "gpt2lab/archive/gc.py",
        "(True, kept) if waiting is None else",
        "(True, kept) if True else",
        "test_gc.py::test_the_only_way_to_continue_a_run_is_kept_though_the_run_is_archived",
    ),
    mistake(
        "a sweep with more rows counts as the same result",
        "gpt2lab/archive/sweeps.py",
        r'f"{job.number} {word} {rows}\n"',
        r'f"{job.number} {word}\n"',
        "test_sweeps.py::test_a_row_more_makes_another_result",
    ),
    mistake(
        "runs of different code become one experiment",
        "gpt2lab/archive/sweeps.py",
        "elif found != first[1]:",
        "elif found is None:",
        "test_sweeps.py::test_runs_of_different_code_are_refused_naming_two",
    ),
)

QUERY = (
    mistake(
        "a query may do anything",
        "gpt2lab/archive/query.py",
        "return sqlite3.SQLITE_OK if action in _ACTIONS else sqlite3.SQLITE_DENY",
        "return sqlite3.SQLITE_OK",
        "test_query.py::test_a_query_that_does_more_than_read_is_refused",
    ),
    mistake(
        "a query counts the tables of SQLite",
        "gpt2lab/archive/query.py",
        'startswith(("sqlite_", "pragma_"))',
        'startswith("pragma_")',
        "test_query.py::test_a_query_that_does_more_than_read_is_refused",
    ),
    mistake(
        "an unknown name in double quotes is text",
        "gpt2lab/archive/query.py",
        "return name if '\"' not in name else",
        "return name if name else",
        "test_query.py",
    ),
    mistake(
        "a huge result is printed",
        "gpt2lab/archive/query.py",
        "if count > MAX_ROWS or characters > MAX_CHARACTERS:",
        "if characters > MAX_CHARACTERS:",
        "test_query.py::test_a_huge_result_is_refused",
    ),
    mistake(
        "experiments without a value are listed first",
        "gpt2lab/archive/query.py",
        "{key} IS NULL, typeof",
        "{key} IS NOT NULL, typeof",
        "test_query.py::test_a_list_is_sorted_with_what_is_not_measured_at_the_end",
    ),
    mistake(
        "a name of two tables is that of the one whose configs are read",
        "gpt2lab/archive/query.py",
        'if "experiments" not in names or not names & RUN_TABLES:',
        "if names:",
        "test_query.py::test_a_name_that_two_tables_have_is_ambiguous_without_an_alias",
    ),
    mistake(
        "a column of floats divides as whole numbers",
        "gpt2lab/archive/query.py",
        'else "REAL" if kinds',
        'else "NUMERIC" if kinds',
        "test_tables.py::test_a_number_keeps_the_value_and_the_division_of_its_column",
    ),
    mistake(
        "a metric takes the place of a setting of its run",
        "gpt2lab/archive/tables.py",
        "flat(metrics, rows[0], {*reserved, *config})",
        "flat(metrics, rows[0], ())",
        "test_tables.py::test_a_metric_with_the_name_of_a_setting_leaves_the_identity_of_a_run_as_it_is",
    ),
    mistake(
        "a file has more names than a table has columns",
        "gpt2lab/archive/tables.py",
        "if len(columns) > MAX_NAMES:",
        "if len(columns) > 100 * MAX_NAMES:",
        "test_hostile_archive.py::test_a_summary_that_is_none_is_refused",
    ),
)

MISTAKES = (*EXPERIMENTS, *QUERY)
