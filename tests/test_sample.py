import numpy as np
import pytest

from gpt2lab.data import read_source
from gpt2lab.errors import ConfigError
from gpt2lab.schema import DataConfig, Operation, TokenizerName
from gpt2lab.train.sample import answer_examples, draw, generate, model_source


class Counter:
    """An engine whose likeliest next token is the last one plus one."""

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size
        self.widths: list[int] = []

    def logits(self, tokens: np.ndarray, *, last_only: bool) -> np.ndarray:
        assert last_only
        self.widths.append(tokens.shape[1])
        found = np.zeros((len(tokens), 1, self.vocab_size), dtype=np.float32)
        found[np.arange(len(tokens)), 0, (tokens[:, -1] + 1) % self.vocab_size] = 5.0
        return found


def test_without_temperature_the_likeliest_token_follows():
    steps = list(generate(Counter(9), np.array([[3], [7]]), max_tokens=3, max_seq_len=8, temperature=0))
    np.testing.assert_array_equal(np.stack(steps, axis=1), [[4, 5, 6], [8, 0, 1]])


def test_a_context_longer_than_the_model_keeps_its_end():
    engine = Counter(50)
    list(generate(engine, np.array([[1, 2, 3]]), max_tokens=4, max_seq_len=5, temperature=0))
    assert engine.widths == [3, 4, 5, 5]


def test_the_same_seed_draws_the_same_text():
    def text(seed: int) -> np.ndarray:
        return np.stack(list(generate(Counter(9), np.zeros((4, 1)), max_tokens=20, max_seq_len=30, seed=seed)))

    np.testing.assert_array_equal(text(1), text(1))
    assert not np.array_equal(text(1), text(2))


def test_draws_follow_the_softmax_at_a_temperature():
    logits = np.log(np.array([[0.5, 0.3, 0.2]]))
    draws = draw(np.repeat(logits, 40_000, axis=0), temperature=0.5, top_k=None, rng=np.random.default_rng(0))
    shares = np.bincount(draws, minlength=3) / 40_000
    expected = np.array([0.25, 0.09, 0.04]) / 0.38  # squared and normalised
    np.testing.assert_allclose(shares, expected, atol=4 * np.sqrt(0.25 / 40_000))  # four standard errors


def test_top_k_never_draws_another_token():
    logits = np.repeat(np.log(np.array([[0.4, 0.1, 0.3, 0.2]])), 5_000, axis=0)
    draws = draw(logits, temperature=1.0, top_k=2, rng=np.random.default_rng(0))
    assert set(draws) == {0, 2}
    np.testing.assert_allclose((draws == 0).mean(), 4 / 7, atol=4 * np.sqrt(0.25 / 5_000))
    assert set(draw(logits, temperature=1.0, top_k=9, rng=np.random.default_rng(0))) == {0, 1, 2, 3}


def test_an_empty_prompt_is_refused():
    with pytest.raises(ConfigError, match="the prompt is empty"):
        next(generate(Counter(9), np.zeros((1, 0)), max_tokens=1, max_seq_len=4))


def test_validation_equations_are_answered_and_compared():
    source = read_source(DataConfig(source="modular", prime=5, operation=Operation.mul))
    [first, second] = answer_examples(Counter(source.vocab_size), source, count=2, max_seq_len=8)
    for text in (first, second):  # EQ plus one is no number, so the answer is wrong
        _, a, sign, b, *_ = text.split()
        assert text.startswith("BOS ") and sign == "*"
        assert text.endswith(f"(expected {int(a) * int(b) % 5})")


def test_a_vocabulary_tells_its_tokenizer_or_is_refused():
    assert model_source(None, 256, None).tokenizer.name == "bytes"
    assert model_source(None, 300, TokenizerName.bytes).tokenizer.name == "bytes"
    with pytest.raises(ConfigError, match="name --tokenizer"):
        model_source(None, 300, None)
