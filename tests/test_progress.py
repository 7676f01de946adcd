import io
from pathlib import Path

from rich.console import Console

from gpt2lab.train.loop import Ending
from gpt2lab.train.progress import Display, Transfer, format_row, print_ending

FACTS = {
    "model": {"counted_positions": None, "random_guess_loss": 5.5452, "best_val_loss": None},
    "data": {"unigram_entropy": 3.1427},
}


def written(show, *, terminal: bool = False) -> str:
    """Return what `show` prints on a console."""
    file = io.StringIO()
    show(Console(file=file, force_terminal=terminal, width=120))
    return file.getvalue()


def test_a_row_shows_what_was_measured_and_nothing_else():
    row = {"step": 3, "train_loss": 2.5, "val_loss": None, "val_accuracy": 0.125, "tokens_per_s": 12345.6}
    assert format_row(row) == "train 2.5000  acc 12.5%  tok/s 12,346"


def test_a_log_file_gets_a_line_per_evaluation_and_no_bar():
    def show(console: Console) -> None:
        with Display(console, first_step=0, max_steps=9) as display:
            display.show({"step": 0, "val_loss": 5.0})
            for step in range(1, 9):
                display.advance(step)
                display.show({"step": step, "train_loss": 4.0})
            display.show({"step": 9, "train_loss": 4.0, "val_loss": 3.0})

    assert written(show).splitlines() == ["step      0  val 5.0000", "step      9  train 4.0000  val 3.0000"]


def test_a_terminal_gets_a_bar_that_goes_away():
    def show(console: Console) -> None:
        with Display(console, first_step=0, max_steps=4) as display:
            display.advance(2)
            display.show({"step": 2, "train_loss": 4.0})

    assert "2/4" in written(show, terminal=True)


def test_a_transfer_is_announced_once_and_only_when_there_is_one():
    def show(console: Console) -> None:
        with Transfer(console) as transfer:
            for done in (0, 500, 1000):
                transfer("download input.txt", done, 1000)

    assert written(show) == "download input.txt (1,000 bytes)\n"
    assert written(lambda console: Transfer(console).__exit__()) == ""


def test_the_ending_puts_the_loss_beside_what_is_known():
    row = {"step": 9, "val_loss": 1.0}
    ending = Ending(state="finished", reason="all 9 steps done", step=9, last_row=row, training_s=1.0)
    text = written(lambda console: print_ending(console, ending, FACTS, Path("runs/x")))
    assert "finished at step 9: all 9 steps done" in text
    assert "val loss 1.0000 nats per token (perplexity 2.72; random guess 5.5452, unigram entropy 3.1427)" in text


def test_an_interruption_prints_the_command_that_continues():
    ending = Ending(state="interrupted", reason="stopped by SIGINT", step=7, last_row={"step": 5}, training_s=1.0)
    text = written(lambda console: print_ending(console, ending, FACTS, Path("runs/x")))
    assert "interrupted at step 7" in text
    assert "python -m gpt2lab.run resume=runs/x" in text
