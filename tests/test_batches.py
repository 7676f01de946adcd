"""Which tokens each update sees."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpt2lab.data.batches import Batches, Split, eval_batches
from gpt2lab.data.shards import read_shard
from gpt2lab.errors import DataError
from gpt2lab.schema import Order


def stream(*sizes):
    """Shards of consecutive numbers, so that a token is its own position; shard k starts at 10000k."""
    return Split(
        shards=tuple(np.arange(size, dtype=np.uint16) + 10000 * k for k, size in enumerate(sizes)), n_bytes=None
    )


def rows(n, T=4):
    """Rows that begin with 999 and go on with their number."""
    table = np.repeat(np.arange(n, dtype=np.uint16)[:, None], T, axis=1)
    table[:, 0] = 999
    return Split(shards=(table.reshape(-1),), n_bytes=None)


def batches(split, *, T=4, B=3, order=Order.shuffled, seed=0, row_len=None):
    return Batches(split, seq_len=T, batch_size=B, order=order, seed=seed, row_len=row_len)


def assert_shifted(inputs, targets):
    assert inputs.dtype == targets.dtype == np.int32
    assert np.array_equal(inputs[:, 1:], targets[:, :-1])


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    T=st.integers(1, 9),
    seed=st.integers(0, 5),
    B=st.integers(1, 4),
)
@settings(max_examples=80)
def test_an_epoch_visits_disjoint_windows_that_never_cross_a_shard(sizes, T, seed, B):
    split = stream(*sizes)
    try:
        made = batches(split, T=T, B=B, seed=seed)
    except DataError:
        assert sum(max(0, size - 1) // T for size in sizes) < B + len(sizes)
        return
    drawn = [made.batch(step) for step in range(made.n_examples)]
    inputs = np.concatenate([x for x, _ in drawn])
    targets = np.concatenate([y for _, y in drawn])
    assert np.array_equal(targets, inputs + 1)  # consecutive numbers: also shows that no window crosses a shard
    for epoch in range(B):
        seen = inputs[epoch * made.n_examples : (epoch + 1) * made.n_examples]
        assert np.unique(seen).size == seen.size


def test_a_batch_depends_on_seed_and_step_alone():
    split = stream(500, 300)
    fresh = [batches(split, seed=3).batch(step) for step in range(200)]
    asked_before = batches(split, seed=3)
    for step in [199, 0, 63, 64, 65, 7, 199, 120]:
        for one, other in zip(asked_before.batch(step), fresh[step], strict=True):
            assert np.array_equal(one, other)
    assert not np.array_equal(batches(split, seed=4).batch(0)[0], fresh[0][0])


def test_epochs_differ_in_order_and_in_where_windows_begin():
    made = batches(stream(1001), T=10, B=1)
    first = {int(made.batch(step)[0][0, 0]) for step in range(made.n_examples)}
    second = {int(made.batch(made.n_examples + step)[0][0, 0]) for step in range(made.n_examples)}
    assert len(first) == len(second) == made.n_examples == 99
    assert {start % 10 for start in first} != {start % 10 for start in second}


def test_a_corpus_of_exactly_one_window_trains():
    inputs, targets = batches(stream(5), T=4, B=1).batch(17)
    assert inputs.tolist() == [[0, 1, 2, 3]] and targets.tolist() == [[1, 2, 3, 4]]


def test_rows_are_seen_once_per_epoch_and_end_in_their_own_first_token():
    made = batches(rows(10), B=5, row_len=4)
    drawn = [made.batch(step) for step in range(4)]
    for inputs, targets in drawn:
        assert_shifted(inputs, targets)
        assert (inputs[:, 0] == 999).all() and (targets[:, -1] == 999).all()
    for epoch in (drawn[:2], drawn[2:]):
        assert sorted(np.concatenate([x[:, 1] for x, _ in epoch]).tolist()) == list(range(10))


def test_a_batch_may_span_two_epochs():
    made = batches(rows(4), B=3, row_len=4)
    numbers = np.concatenate([made.batch(step)[0][:, 1] for step in range(4)])
    assert all(sorted(numbers[i : i + 4].tolist()) == [0, 1, 2, 3] for i in range(0, 12, 4))


def test_full_takes_every_row_in_file_order_at_every_step():
    made = batches(rows(7), B="full", row_len=4, seed=5)
    assert (made.batch_size, made.n_examples, made.tokens_per_batch) == (7, 7, 28)
    for step in (0, 1, 50):
        assert made.batch(step)[0][:, 1].tolist() == list(range(7))


def test_full_is_the_same_read_only_arrays_at_every_step():
    made = batches(rows(7), B="full", row_len=4)
    for first, again in zip(made.batch(0), made.batch(9), strict=True):
        assert first is again
        assert not first.flags.writeable
    assert batches(rows(7), B=7, row_len=4).batch(0)[0].flags.writeable


def test_full_takes_every_window_of_a_stream():
    made = batches(stream(9, 3, 14), T=4, B="full")
    assert made.batch(3)[0][:, 0].tolist() == [0, 4, 20000, 20004, 20008]
    assert made.batch_size == 5


def test_sequential_reads_like_llmc(golden):
    tokens = read_shard(golden / "train.bin")
    made = batches(Split(shards=(tokens,), n_bytes=None), T=16, B=4, order=Order.sequential)
    per_epoch = (6000 - 1) // 64
    for step in (0, 1, 39, per_epoch - 1, per_epoch, per_epoch + 2):
        start = step % per_epoch * 64
        inputs, targets = made.batch(step)
        assert np.array_equal(inputs.reshape(-1), tokens[start : start + 64])
        assert np.array_equal(targets.reshape(-1), tokens[start + 1 : start + 65])


def test_sequential_goes_through_the_shards_and_around_again():
    made = batches(stream(17, 3, 9), T=4, B=2, order=Order.sequential)
    assert [int(made.batch(step)[0][0, 0]) for step in range(5)] == [0, 8, 20000, 0, 8]


def test_sequential_rows_equal_the_stream_reading_of_the_same_tokens():
    split = rows(9)
    as_rows = batches(split, B=2, order=Order.sequential, row_len=4)
    as_stream = batches(split, B=2, order=Order.sequential)
    for step in range(4):
        for one, other in zip(as_rows.batch(step), as_stream.batch(step), strict=True):
            assert np.array_equal(one, other)
    assert np.array_equal(as_rows.batch(4)[0], as_rows.batch(0)[0])


@pytest.mark.parametrize(
    ("split", "B", "order", "row_len", "words"),
    [
        (stream(4), 1, Order.shuffled, None, ["train.seq_len=4", "takes 5 tokens", "has 4"]),
        (stream(), 1, Order.shuffled, None, ["has 0"]),
        (stream(21), 5, Order.shuffled, None, ["train.batch_size=5", "only 4 examples", "train.seq_len=4"]),
        (stream(13, 13), 4, Order.sequential, None, ["largest train shard has only 3 examples"]),
        (rows(5), 6, Order.shuffled, 4, ["train.batch_size=6", "train split has only 5 examples"]),
    ],
)
def test_data_smaller_than_a_batch_is_refused_with_both_numbers(split, B, order, row_len, words):
    with pytest.raises(DataError) as caught:
        batches(split, B=B, order=order, row_len=row_len)
    for word in words:
        assert word in str(caught.value)


def test_evaluation_sees_each_example_once_in_file_order():
    drawn = list(eval_batches(stream(14, 4, 9), seq_len=4, batch_size=2, row_len=None, count=None))
    assert [x[:, 0].tolist() for x, _ in drawn] == [[0, 4], [8, 10000 * 2], [20004]]
    for inputs, targets in drawn:
        assert np.array_equal(targets, inputs + 1)


def test_evaluation_stops_after_count_batches_and_shrinks_to_a_small_split():
    def sizes(split, **more):
        return [x.shape for x, _ in eval_batches(split, seq_len=4, row_len=4, **more)]

    assert sizes(rows(10), batch_size=4, count=2) == [(4, 4), (4, 4)]
    assert sizes(rows(10), batch_size=4, count=9) == [(4, 4), (4, 4), (2, 4)]
    assert sizes(rows(3), batch_size=64, count=20) == [(3, 4)]


def test_evaluating_a_split_without_a_window_is_refused_before_the_first_batch():
    with pytest.raises(DataError, match="longest shard of the test split has 3"):
        eval_batches(stream(3), seq_len=4, batch_size=2, row_len=None, split_name="test")
