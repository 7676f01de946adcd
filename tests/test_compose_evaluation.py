"""What `--on` means for a model: overrides on top of the config that it was trained with."""

import pytest

from gpt2lab.compose import compose, compose_requested, parse_requested
from gpt2lab.errors import ConfigError
from gpt2lab.schema import Operation, TokenizerName
from gpt2lab.train.evaluation_task import EvaluationTask, make_task


def task(text: str, *trained: str, vocab_size: int = 256) -> EvaluationTask:
    [requested] = parse_requested([text])
    config = compose(list(trained)) if trained else None
    return make_task(requested.name, compose_requested(requested, config), requested.keys, config, vocab_size)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("data=pydocs", "pydocs"),
        ("data=text data.path=books/emma.txt", "emma.txt"),
        ('data=text data.path="my file.txt"', "my file.txt"),
        ("data=modular data.prime=59", "modular prime=59"),
        ("data.prime=59", "prime=59"),
        ("my notes: data=text data.path=a:b.txt", "my notes"),
    ],
)
def test_a_task_has_the_name_it_is_given_or_one_made_from_its_data(text, name):
    [requested] = parse_requested([text])
    assert requested.name == name


def test_a_quoted_path_stays_one_override():
    assert task("data=text data.path='my file.txt'").data.path == "my file.txt"


def test_two_tasks_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="pydocs is there already; give each a name"):
        parse_requested(["data=pydocs", "pydocs: data=text data.path=x"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected overrides"),
        ("name: ", "expected overrides"),
        ("data=text data.path='open", "with every quote closed"),
        ("model.n_layer=3", "model.n_layer changes no evaluation"),
        ("engine=cuda", "chosen with --engine"),
        ("data.prime=59,61", "is a grid; give --on once for each"),
        ("data.prime", "not an override"),
        ("data=nope", "no such option"),
        ("data.primee=3", "did you mean data.prime"),
    ],
)
def test_what_is_no_data_is_refused_in_one_line(text, message):
    with pytest.raises(ConfigError, match=message) as error:
        task(text)
    assert "\n" not in str(error.value)


def test_the_settings_of_the_run_stay_unless_they_are_named():
    found = task("data.prime=59", "data=modular", "data.operation=mul", "masking=task_position", "task_position=4")
    assert (found.data.source, found.data.operation, found.data.prime) == ("modular", Operation.mul, 59)
    assert found.task_position == 4


def test_the_source_of_the_run_named_again_keeps_its_settings():
    found = task("data=modular", "data=modular", "data.operation=mul")
    assert found.data.operation is Operation.mul


def test_another_source_starts_from_its_own_settings_with_the_models_tokenizer():
    found = task("data=pydocs", "data=text", "data.path=a.txt", "data.tokenizer=gpt2", "train.seq_len=32")
    assert (found.data.source, found.data.path) == ("pydocs", None)
    assert found.data.tokenizer is TokenizerName.gpt2
    assert found.seq_len == 32
    # tinystories.yaml names gpt2; a model of bytes reads bytes.
    assert task("data=tinystories", "data=pydocs").data.tokenizer is TokenizerName.bytes
    assert task("data=tinystories data.tokenizer=gpt2", "data=pydocs").data.tokenizer is TokenizerName.gpt2


def test_rows_bring_their_own_length():
    assert task("data=formal", "data=pydocs", "train.seq_len=32").seq_len is None


def test_a_named_position_and_length_replace_those_of_the_run():
    found = task("data=pydocs task_position=[2,5] train.seq_len=300", "data=modular", "task_position=4")
    assert (found.task_position, found.seq_len) == ([2, 5], 300)
    assert task("data=pydocs masking=none", "data=modular", "task_position=4").task_position is None


def test_a_bare_checkpoint_tells_its_tokenizer_by_its_vocabulary():
    assert task("data=pydocs", vocab_size=50257).data.tokenizer is TokenizerName.gpt2
    assert task("data=pydocs", vocab_size=256).data.tokenizer is TokenizerName.bytes
