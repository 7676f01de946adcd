"""Mistakes in reports: comparisons, statistics, verdicts, and the numbers of one run."""

from mistakes.mistake import mistake

STATISTICS = (
    mistake(
        "the standard deviation is divided by n",
        "gpt2lab/report/comparison/statistics.py",
        "float(values.std(ddof=1))",
        "float(values.std())",
        "test_statistics.py",
    ),
    mistake(
        "the smallest p-value is multiplied by one too few",
        "gpt2lab/report/comparison/statistics.py",
        "np.arange(len(p), 0, -1)",
        "np.arange(len(p) - 1, -1, -1)",
        "test_statistics.py::test_holm_multiplies_the_smallest_by_how_many_there_are",
    ),
    mistake(
        "every improvement is inside the noise floor",
        "gpt2lab/report/comparison/statistics.py",
        "abs(difference.mean) <= floor.std",
        "difference.mean <= floor.std",
        "test_statistics.py",
    ),
    mistake(
        "better and worse change places",
        "gpt2lab/report/comparison/statistics.py",
        "(difference.mean > 0) == higher_is_better",
        "(difference.mean < 0) == higher_is_better",
        "test_statistics.py::test_the_direction_of_the_metric_decides_between_better_and_worse",
    ),
    mistake(
        "a verdict looks at the p-value before its correction",
        "gpt2lab/report/comparison/statistics.py",
        "if corrected_p >= 1 - CONFIDENCE:",
        "if difference.p >= 1 - CONFIDENCE:",
        "test_statistics.py::test_a_correction_can_take_a_difference_away",
    ),
    mistake(
        "the noise floor loses one degree of freedom for all groups together",
        "gpt2lab/report/comparison/statistics.py",
        "squares / (runs - len(several))",
        "squares / (runs - 1)",
        "test_statistics.py::test_the_noise_floor_pools_the_groups_that_have_several_runs",
    ),
    mistake(
        "a run that never got there counts as one that did when it ended",
        "gpt2lab/report/comparison/statistics.py",
        "CensoredData(uncensored=times, right=bounds)",
        "CensoredData(uncensored=np.append(times, bounds))",
        "test_statistics.py",
    ),
)

COMPARISON = (
    mistake(
        "a difference is baseline minus arm",
        "gpt2lab/report/comparison/statistics.py",
        "(values[seed], baseline[seed]) for seed",
        "(baseline[seed], values[seed]) for seed",
        "test_compare.py::test_runs_of_equal_config_are_one_arm_and_arms_are_paired_by_seed",
    ),
    mistake(
        "arms are compared at the first step that all measured",
        "gpt2lab/report/comparison/compare.py",
        "int(steps[-1])",
        "int(steps[0])",
        "test_compare.py",
    ),
    mistake(
        "an interrupted run counts",
        "gpt2lab/report/comparison/compare.py",
        'if state != "finished":',
        'if state == "failed":',
        "test_compare.py::test_unfinished_and_diverged_runs_are_named_and_counted_out",
    ),
    mistake(
        "runs on different bytes of data are compared",
        "gpt2lab/report/comparison/arms.py",
        '("name", "files", "splits",',
        '("name", "splits",',
        "test_compare.py::test_an_arm_that_differs_in_more_than_its_settings_stands_apart",
    ),
    mistake(
        "a run that is compared is in the archive's noise once more",
        "gpt2lab/report/comparison/noise.py",
        "(_same(run), run.seed) not in known and ",
        "",
        "test_noise.py",
    ),
    mistake(
        "twice the steps is not yet delayed",
        "gpt2lab/report/comparison/grokking.py",
        "generalised >= DELAY_FACTOR * max(fitted, 1)",
        "generalised > DELAY_FACTOR * max(fitted, 1)",
        "test_grokking.py",
    ),
)

ONE_RUN = (
    mistake(
        "bits per byte have tokens and bytes exchanged",
        "gpt2lab/report/summary.py",
        "math.log(2) * tokens / n_bytes",
        "math.log(2) * n_bytes / tokens",
        "test_summary.py",
    ),
    mistake(
        "an accuracy below one is written as one",
        "gpt2lab/report/numbers.py",
        "min(value, 0.9999)",
        "min(value, 1.0)",
        "test_numbers.py",
        "test_words.py",
    ),
)

NOTES = (
    mistake(
        "a tag in a person's notes is a tag of the page",
        "gpt2lab/report/notes.py",
        '"" if is_comment else "&lt;"',
        '"" if is_comment else "<"',
        "test_notes.py",
    ),
    mistake(
        "a heading of a person's notes stays as high as one of the page",
        "gpt2lab/report/notes.py",
        "depth = min(6, depth + shift)",
        "depth = min(6, depth)",
        "test_notes.py::test_headings_go_below_those_of_the_page_and_keep_their_order",
    ),
)

MISTAKES = (*STATISTICS, *COMPARISON, *ONE_RUN, *NOTES)
