"""Mistakes in the tools that prove and compare before they measure."""

from mistakes.mistake import mistake

MISTAKES = (
    mistake(
        "a failed check of an op is not reported",
        "tools/gpu/proof.py",
        "if not check.passed:",
        "if check.passed is None:",
        "test_gpu_check.py::test_a_figure_that_is_not_a_number_fails_and_can_still_be_written",
    ),
    mistake(
        "an op without any check is proven",
        "tools/gpu/proof.py",
        "if not checks and not failed:",
        "if not checks and failed:",
        "test_gpu_check.py::test_no_checks_at_all_are_a_failure",
    ),
    mistake(
        "moments may differ by any amount before a comparison is timed",
        "tools/bench_equal.py",
        "if not difference <= bound**2 * size:",
        "if not difference <= size / bound**2:",
        "test_bench_equal.py::test_a_mistake_in_training_is_found_before_anything_is_timed",
    ),
)
