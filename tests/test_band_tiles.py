"""Blocks of a band: together they hold every kept weight, and no two write the same place."""

import json
from pathlib import Path

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from gpt2lab.engine.torch.plan import COSTS
from gpt2lab.model.band_tiles import (
    ProductCost,
    block_multiply_adds,
    channel_blocks,
    choose_tile,
    hidden_blocks,
    mlp_tiles,
)
from gpt2lab.model.bands import band_mask
from gpt2lab.model.params import GPTConfig

FREE = ProductCost(call_s=0.0, multiply_add_s=1e-11, value_s=0.0)


@given(n_embd=st.integers(1, 40), band=st.integers(1, 200), size=st.integers(1, 70))
def test_blocks_hold_every_kept_weight_and_share_no_tile(n_embd, band, size):
    mask = band_mask(n_embd, band)
    for blocks, side in (
        (hidden_blocks(n_embd, band, size), "hidden"),
        (channel_blocks(n_embd, band, size), "channels"),
    ):
        held = np.zeros_like(mask)
        for block in blocks:
            held[block.hidden, block.channels] = True
        assert (held >= mask).all()
        tiles = [getattr(block, side) for block in blocks]
        assert [i for tile in tiles for i in range(tile.start, tile.stop)] == list(
            range(4 * n_embd if side == "hidden" else n_embd)
        )
        windows = [getattr(block, "channels" if side == "hidden" else "hidden") for block in blocks]
        assert len({window.stop - window.start for window in windows}) == 1


@given(n_embd=st.integers(1, 40), band=st.integers(1, 200), size=st.integers(1, 70))
@example(n_embd=4, band=1, size=1)  # three hidden units of four need no channel
@example(n_embd=5, band=10**6, size=7)
def test_clipped_windows_hold_what_their_tile_needs_and_no_more(n_embd, band, size):
    kept = band_mask(n_embd, band)
    by_hidden, by_channels = (blocks(n_embd, band, size, clipped=True) for blocks in (hidden_blocks, channel_blocks))
    windows = [(block.channels, kept[block.hidden].any(axis=0)) for block in by_hidden]
    windows += [(block.hidden, kept[:, block.channels].any(axis=1)) for block in by_channels]
    for window, needed in windows:
        (places,) = needed.nonzero()
        assert 0 <= window.start <= window.stop <= len(needed)
        assert window.stop - window.start == (places[-1] + 1 - places[0] if len(places) else 0)
        assert len(places) == 0 or window.start == places[0]
    for blocks in (by_hidden, by_channels):
        held = np.zeros_like(kept)
        for block in blocks:
            held[block.hidden, block.channels] = True
        assert (held >= kept).all()
    assert [i for b in by_hidden for i in range(b.hidden.start, b.hidden.stop)] == list(range(4 * n_embd))
    assert [i for b in by_channels for i in range(b.channels.start, b.channels.stop)] == list(range(n_embd))


def test_multiply_adds_are_those_of_the_blocks():
    assert block_multiply_adds(hidden_blocks(768, 256, 128)) == 24 * 128 * 96
    # A tile of 256 hidden units needs 256/4 channels and 32 more on both sides; the first and the last on one.
    assert block_multiply_adds(hidden_blocks(768, 256, 256, clipped=True)) == 256 * (10 * 128 + 2 * 96)
    # A tile of 64 channels needs 4 * 63 + 1 hidden units and 128 on both sides; after the last centre there are 3.
    assert block_multiply_adds(channel_blocks(768, 256, 64, clipped=True)) == 64 * (10 * 509 + 381 + 384)


def test_a_tile_is_chosen_only_where_it_is_cheaper_than_dense():
    assert choose_tile(768, 256, 1024, FREE) == 64
    assert choose_tile(768, 0, 1024, FREE) is None
    assert choose_tile(128, 1024, 1024, FREE) is None  # keeps everything
    assert choose_tile(768, 256, 1024, ProductCost(call_s=1.0, multiply_add_s=1e-11, value_s=0.0)) is None


def test_the_tiles_chosen_are_those_of_the_measured_record_and_nearly_the_best_in_it():
    folder = Path(__file__).parent.parent / "tools" / "benchmarks"
    records = [json.loads(path.read_text()) for path in folder.glob("*costs*.json")]
    choices = max(records, key=lambda record: record["date"])["results"]["costs"]["choices"]
    for case in choices:
        tile = choose_tile(case["n_embd"], case["band"], case["rows"], COSTS["cpu"])
        assert case["chosen"] == (str(tile) if tile else "dense"), case
    worse = [case["chosen_over_best"] for case in choices]
    assert len(worse) == 31 and max(worse) <= 1.03 and sum(worse) / len(worse) <= 1.01  # as band_tiles.py says


def test_each_matrix_of_the_mlp_has_a_tile_of_its_own_and_none_when_switched_off():
    shape = GPTConfig(n_layer=2, n_head=2, n_embd=128, max_seq_len=8, vocab_size=17, fc1_band=64)
    assert mlp_tiles(shape, 1024, FREE) == {"fc1": 64, "fc2": None}
    assert mlp_tiles(shape, 1024, FREE, enabled=False) == {"fc1": None, "fc2": None}
