import io
from pathlib import Path

from rich.console import Console

from gpt2lab.train.loop import Ending
from gpt2lab.train.progress import Display, Transfer, format_row, print_ending, print_header

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


def test_the_header_says_what_a_band_and_a_mask_leave_out_and_why_a_product_is_dense():
    blocks, dense = (dict.fromkeys(("forward", "input", "weight"), size) for size in (64, None))
    shape = {"n_layer": 4, "n_head": 4, "n_embd": 128, "fc1_band": 32, "fc2_band": 500, "n_params_active": 700_000}
    shape |= {"flop_per_token_dense": 900, "flop_per_token_computed": 300}
    shape |= {"why_dense": "blocks would not be faster"}
    work = {"positions": 2048, "nodes": 272, "last_layer_rows": 128, "passes": 1, "trees": 0}
    facts = {
        "model": shape | {"batch_size": 16, "seq_len": 128, "work": work, "mlp_tiles": {"fc1": blocks, "fc2": dense}},
        "data": {"name": "pydocs", "splits": {"train": {"tokens": 9}}, "vocab_size": 256},
        "engine": {"name": "torch", "device": "cpu", "device_name": "one", "precision": "fp32"},
    }

    def lines() -> list[str]:
        return written(lambda console: print_header(console, facts, first_step=0)).splitlines()

    assert lines()[3:] == [
        "bands    FC1: products over 8 blocks of 64 hidden units",
        "bands    FC2: dense products (blocks would not be faster)",
        "work     272 of 2,048 positions, 128 in the last layer; 3.00 times fewer FLOP than the plain batch",
    ]
    facts["model"]["mlp_tiles"] = {"fc1": dense, "fc2": dense}
    facts["model"]["why_dense"] = "engine.banded_products=false"
    assert lines()[3] == "bands    FC1 and FC2: dense products (engine.banded_products=false)"
    facts["model"] |= {"fc1_band": 0, "fc2_band": 0, "flop_per_token_computed": 900}
    assert len(lines()) == 3


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
