"""Mistakes in training a run, in what it leaves on disk, and in sweeps."""

from mistakes.mistake import mistake

TRAIN = (
    mistake(
        "the first update of a warmup learns nothing",
        "gpt2lab/train/schedule.py",
        "peak * (step + 1) / warmup",
        "peak * step / warmup",
        "test_schedule.py",
    ),
    mistake(
        "the first batch is never trained on",
        "gpt2lab/train/loop.py",
        "parts.batches.batch(engine.step)",
        "parts.batches.batch(engine.step + 1)",
        "test_run.py::test_training_follows_llmc_from_the_command_line",
    ),
    mistake(
        "an interrupted run is not saved",
        "gpt2lab/train/loop.py",
        "    hooks.save(clock.elapsed_s)\n    reason = ",
        '    if state == "finished":\n        hooks.save(clock.elapsed_s)\n    reason = ',
        "test_resume.py::test_an_interrupted_run_names_the_step_it_saved",
    ),
    mistake(
        "a run that diverges in its last evaluation is finished",
        "gpt2lab/train/loop.py",
        "            hooks.on_row(row)\n            _check_finite(row)",
        "            hooks.on_row(row)",
        "test_run.py::test_a_model_broken_by_its_last_update_is_no_finished_run",
    ),
    mistake(
        "a resumed run keeps the rows that it measures again",
        "gpt2lab/train/resume.py",
        "drop_rows_after(run.metrics, checkpoint.step)",
        "drop_rows_after(run.metrics, checkpoint.step + 1)",
        "test_resume.py::test_rows_behind_the_checkpoint_are_measured_again",
    ),
    mistake(
        "a run goes on with another seed",
        "gpt2lab/train/resume.py",
        '    "resume",\n    "tracker",',
        '    "resume",\n    "seed",\n    "tracker",',
        "test_resume.py::test_a_run_is_not_continued_with_another_config[seed=5-seed=5 (was 0)]",
    ),
    mistake(
        "the signal handlers of others are not put back",
        "gpt2lab/train/interrupts.py",
        "for number, handler in self._previous.items():",
        "for number, handler in ():",
        "test_resume.py::test_the_signal_handlers_of_others_are_put_back",
    ),
    mistake(
        "an answer is compared with the token before it",
        "gpt2lab/train/sample.py",
        "rows[:, first + 1 : last + 2]",
        "rows[:, first : last + 1]",
        "test_sample.py::test_validation_equations_are_answered_and_compared",
    ),
)

RECORD = (
    mistake(
        "the model is renamed before the state that names it",
        "gpt2lab/record/checkpoint.py",
        "        new_state.replace(run_dir / STATE_FILE)\n        new_model.replace(model)\n",
        "        new_model.replace(model)\n        new_state.replace(run_dir / STATE_FILE)\n",
        "test_checkpoint.py",
    ),
    mistake(
        "any model is taken for the one that the state belongs to",
        "gpt2lab/record/checkpoint.py",
        "if model.exists() and file_sha256(model) == digest:",
        "if model.exists():",
        "test_checkpoint.py",
    ),
    mistake(
        "the row of the checkpoint's own step is dropped",
        "gpt2lab/record/metrics.py",
        '(row["step"] or 0) <= step]',
        '(row["step"] or 0) < step]',
        "test_metrics.py",
    ),
    mistake(
        "two seeds of one config have the same hash",
        "gpt2lab/record/provenance.py",
        '_NOT_HASHED = ("name",',
        '_NOT_HASHED = ("seed", "name",',
        "test_provenance.py::test_what_changes_the_result_changes_the_config_hash",
    ),
    mistake(
        "the kernels are left out of the archived source",
        "gpt2lab/record/source_archive.py",
        '("gpt2lab", "cuda", "conf", "pyproject.toml"',
        '("gpt2lab", "conf", "pyproject.toml"',
        "test_source_archive.py",
    ),
    mistake(
        "two processes may hold one directory",
        "gpt2lab/record/lock.py",
        "fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)",
        "fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        "test_rundir.py::test_a_run_in_use_is_refused_and_the_process_is_named",
    ),
    mistake(
        "a refused run leaves its directory locked",
        "gpt2lab/record/rundir.py",
        "            run.close()\n            raise",
        "            raise",
        "test_rundir.py::test_a_refused_claim_leaves_the_directory_unlocked",
    ),
    mistake(
        "W&B is told that a failed run finished",
        "gpt2lab/record/tracker.py",
        "exit_code=0 if ok else 1",
        "exit_code=0",
        "test_tracker.py::test_the_exit_code_tells_whether_the_run_finished",
    ),
    mistake(
        "a run that diverged is listed as failed",
        "gpt2lab/record/sweep.py",
        'status.get("exit_code") == DivergedError.exit_code',
        'status.get("exit_code") == ArchiveError.exit_code',
        "test_record_sweep.py::test_the_state_of_each_job_comes_from_its_own_directory",
    ),
)

SWEEP = (
    mistake(
        "a finished job runs again",
        "gpt2lab/sweep/plan.py",
        '    if state.word == "finished":\n        return None',
        '    if state.word == "finished":\n        return "it ran before"',
        "test_sweep_again.py::test_the_same_sweep_again_runs_nothing",
    ),
    mistake(
        "a sweep goes on although nobody reads its output",
        "gpt2lab/sweep/worker.py",
        "STOPS = (130, CLOSED_PIPE)",
        "STOPS = (130,)",
        "test_closed_pipe.py::test_a_sweep_whose_output_nobody_reads_stops_and_is_not_archived[advance]",
    ),
    mistake(
        "fail_fast does not see the failures of its own start",
        "gpt2lab/sweep/worker.py",
        '["ended"]) >= self.started',
        '["ended"]) <= self.started',
        "test_sweep.py::test_fail_fast_starts_nothing_after_a_failure",
    ),
    mistake(
        "a run that stands twice in a grid runs twice",
        "gpt2lab/sweep/plan.py",
        "same = jobs.setdefault(job.key, job)",
        "same = jobs.setdefault(place, job)",
        "test_sweep.py::test_a_run_that_stands_twice_in_a_grid_runs_once",
    ),
)

METRICS = (
    mistake(
        "a higher accuracy is worse",
        "gpt2lab/record/columns.py",
        'format="share",\n        higher_is_better=True,',
        'format="share",\n        higher_is_better=False,',
        "test_columns.py",
        "test_compare.py",
    ),
    mistake(
        "a column that is there twice is read",
        "gpt2lab/record/metrics.py",
        "if count > 1:",
        "if count > 2:",
        "test_metrics.py",
    ),
    mistake(
        "rows of an older run get one cell too few for its new columns",
        "gpt2lab/record/metrics.py",
        'blank = b"," * len(names) + b"\\n"',
        'blank = b"," * (len(names) - 1) + b"\\n"',
        "test_metrics.py",
    ),
)

IDENTITY = (
    mistake(
        "the kernels are no part of the code",
        "gpt2lab/record/identity.py",
        'name.startswith(("conf/", "cuda/"))',
        'name.startswith("conf/")',
        "test_identity.py::test_one_byte_of_what_can_change_a_number_is_other_code",
    ),
    mistake(
        "a report template changes the identity of a run",
        "gpt2lab/record/identity.py",
        'RUN_PARTS = {"schema",',
        'RUN_PARTS = {"report", "schema",',
        "test_identity.py::test_one_byte_of_anything_else_is_the_same_code",
    ),
    mistake(
        "a run that was resumed with other code is of its first code",
        "gpt2lab/record/identity.py",
        "[first_code_hash(run_dir, provenance), *later]",
        "[first_code_hash(run_dir, provenance)]",
        "test_identity.py::test_a_run_that_was_resumed_with_other_code_is_of_no_single_code",
    ),
    mistake(
        "the source archived with an older run is not compared with its hash",
        "gpt2lab/record/identity.py",
        "if found != source_hash:",
        "if not found:",
        "test_identity.py::test_an_archive_that_is_damaged_or_of_other_source_is_refused",
    ),
)

MISTAKES = (*TRAIN, *RECORD, *METRICS, *IDENTITY, *SWEEP)
