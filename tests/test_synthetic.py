"""Equations and bit strings: every row true, every example once, the best loss as stated."""

import math

import numpy as np
import pytest
from synthetic_rows import rows_of

from gpt2lab.data import Source, read_source
from gpt2lab.data.batches import Batches
from gpt2lab.errors import ConfigError
from gpt2lab.schema import DataConfig, FormalTask, Operation, Order

HOLDS = {
    Operation.add: lambda a, b, c, p: (a + b - c) % p == 0,
    Operation.sub: lambda a, b, c, p: (a - b - c) % p == 0,
    Operation.mul: lambda a, b, c, p: (a * b - c) % p == 0,
    Operation.div: lambda a, b, c, p: (b * c - a) % p == 0 and b != 0,
    Operation.sq_sum: lambda a, b, c, p: (a**2 + b**2 - c) % p == 0,
}


def modular(**keys) -> Source:
    return read_source(DataConfig(source="modular", **keys))


def formal(**keys) -> Source:
    return read_source(DataConfig(source="formal", **keys))


def every(made):
    return np.concatenate([rows_of(made, "train"), rows_of(made, "val")]).astype(int)


@pytest.mark.parametrize("operation", list(Operation))
@pytest.mark.parametrize("prime", [2, 5, 13])
def test_every_equation_is_true_and_occurs_once(operation, prime):
    made = modular(operation=operation, prime=prime)
    rows = every(made)
    bos, eos, eq = prime, prime + 1, prime + 2
    assert (rows[:, [0, 4, 6, 7]] == [bos, eq, eos, eos]).all()
    assert (rows[:, 2] == prime + 3 + list(Operation).index(operation)).all()
    assert all(HOLDS[operation](a, b, c, prime) and c < prime for a, b, c in rows[:, [1, 3, 5]].tolist())
    pairs = {tuple(pair) for pair in rows[:, [1, 3]].tolist()}
    assert len(pairs) == len(rows) == prime * (prime - (operation is Operation.div))
    assert made.tokenizer.vocab_size == prime + 8


def test_half_of_the_equations_modulo_97_are_4704():
    made = modular()
    train, val = rows_of(made), rows_of(made, "val")
    assert train.shape == (4704, 8) and val.shape == (4705, 8)
    assert train.dtype == np.uint16


def test_the_split_depends_on_its_seed_alone():
    first, same, other = (modular(prime=11, split_seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(rows_of(first, split), rows_of(same, split)) for split in ("train", "val"))
    assert {tuple(r) for r in rows_of(first).tolist()} != {tuple(r) for r in rows_of(other).tolist()}


def test_the_answer_of_an_equation_is_target_4():
    made = modular(prime=11)
    batches = Batches(made.splits["train"], seq_len=8, batch_size="full", order=Order.shuffled, seed=0, row_len=8)
    _, targets = batches.batch(0)
    first, last = made.answer_span
    assert first == last and np.array_equal(targets[:, first], rows_of(made)[:, 5])
    assert made.answer_choices == 11


@pytest.mark.parametrize("operation", list(Operation))
def test_best_loss_of_equations_is_the_entropy_of_each_target_given_what_came_before(operation):
    made = modular(operation=operation, prime=7)
    assert np.allclose(made.best_loss, conditional_entropies(every(made)), atol=1e-12)


@pytest.mark.parametrize("task", list(FormalTask))
def test_best_loss_of_bits_is_the_entropy_of_each_target_given_what_came_before(task):
    made = formal(task=task, input_len=5)
    assert np.allclose(made.best_loss, conditional_entropies(every(made)), atol=1e-12)


def conditional_entropies(rows):
    """Entropy in nats of row[t+1] given row[0..t], over all rows; 0 for the last target, which is always BOS."""
    T = rows.shape[1]
    joint = [math.log(len(rows)) - _mean_log_count(rows[:, :t]) for t in range(1, T + 1)]
    return np.append(np.diff(joint), 0.0)


def _mean_log_count(prefixes):
    counts = np.unique(prefixes, axis=0, return_counts=True)[1]
    return float((counts * np.log(counts)).sum() / counts.sum())


@pytest.mark.parametrize(("prime", "named"), [(91, "89 or 97"), (4, "3 or 5"), (9, "7 or 11")])
def test_division_by_a_modulus_that_is_not_prime_is_refused_with_the_next_ones(prime, named):
    with pytest.raises(ConfigError, match=rf"data\.prime={prime} is not a prime number.*use {named}"):
        modular(operation=Operation.div, prime=prime)
    assert len(every(modular(prime=prime))) == prime**2


def test_a_modulus_too_large_to_list_is_refused():
    with pytest.raises(ConfigError, match=r"data\.prime=99991: expected at most 4096"):
        modular(prime=99991)


@pytest.mark.parametrize(("make", "key"), [(modular, {"prime": 2}), (formal, {"input_len": 1})])
def test_a_split_with_an_empty_side_is_refused(make, key):
    made = make(**key, train_fraction=0.5)
    assert len(rows_of(made)) == len(rows_of(made, "val")) > 0
    with pytest.raises(ConfigError, match=r"data\.train_fraction=1e-06: of \d examples 0 would be trained on"):
        make(**key, train_fraction=1e-6)


ANSWERS = {
    FormalTask.parity: lambda x: [sum(x) % 2],
    FormalTask.copy: lambda x: x,
    FormalTask.reverse: lambda x: x[::-1],
    FormalTask.majority: lambda x: [int(x.count(1) > x.count(0))],
}


@pytest.mark.parametrize("task", list(FormalTask))
@pytest.mark.parametrize("n", [1, 2, 7, 8])
def test_every_bit_string_occurs_once_with_its_answer(task, n):
    made = formal(task=task, input_len=n)
    rows = every(made).tolist()
    assert len({tuple(row[1 : n + 1]) for row in rows}) == len(rows) == 2**n
    for row in rows:
        answer = ANSWERS[task](row[1 : n + 1])
        assert row == [2, *row[1 : n + 1], 4 + list(FormalTask).index(task), *answer] + [3] * (18 - n - len(answer))
        assert len(row) == 20


@pytest.mark.parametrize(("task", "span"), [(FormalTask.copy, (9, 16)), (FormalTask.parity, (9, 9))])
def test_the_answer_span_of_eight_bits_begins_at_target_9(task, span):
    made = formal(task=task, input_len=8)
    targets = np.roll(rows_of(made), -1, axis=1)
    first, last = made.answer_span
    assert (first, last) == span
    assert np.isin(targets[:, first : last + 1], range(made.answer_choices)).all() and made.answer_choices == 2
    assert (targets[:, first - 1] > 3).all() and (targets[:, last + 1] == 3).all()


@pytest.mark.parametrize(
    ("task", "n", "longest"),
    [(FormalTask.copy, 9, 8), (FormalTask.reverse, 9, 8), (FormalTask.parity, 17, 16), (FormalTask.majority, 40, 16)],
)
def test_input_that_a_row_cannot_hold_is_refused(task, n, longest):
    with pytest.raises(ConfigError, match=rf"data\.input_len={n}: data\.task={task.name} has room for {longest} bits"):
        formal(task=task, input_len=n)
    assert formal(task=task, input_len=longest).row_len == 20


def test_rows_read_as_equations_and_parse_back():
    made = modular(operation=Operation.div, prime=7)
    text = made.tokenizer.decode(rows_of(made)[0])
    words = text.split()
    assert [words[0], words[2], words[4], *words[6:]] == ["BOS", "/", "=", "EOS", "EOS"]
    assert np.array_equal(made.tokenizer.encode(text), rows_of(made)[0])
    assert made.detail["rule"] == "a / b = c, b not 0 (mod 7)"
