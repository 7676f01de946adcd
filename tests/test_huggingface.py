"""Against transformers' own GPT-2, randomly initialised: its weights cannot be downloaded in a test."""

import numpy as np
import pytest
import torch

from gpt2lab.engine.torch.model import GPT
from gpt2lab.engine.torch.passes import DeviceRows
from gpt2lab.errors import ConfigError, DataError
from gpt2lab.model.huggingface import from_huggingface, to_huggingface
from gpt2lab.model.init import init_params
from gpt2lab.model.params import GPTConfig

transformers = pytest.importorskip("transformers", reason="transformers (extra hf) is not installed")

from gpt2lab.engine.torch.pretrained import from_transformers, read_pretrained, to_transformers  # noqa: E402

CONFIG = GPTConfig(n_layer=3, n_head=4, n_embd=32, max_seq_len=24, vocab_size=50)


@pytest.fixture
def hf_model():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=24, n_embd=32, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    for parameter in model.parameters():  # biases and norms too, so that a swapped pair shows
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def test_a_transformers_model_gives_equal_logits_here(hf_model):
    config, params = from_transformers(hf_model)
    assert config == CONFIG
    tokens = torch.randint(0, 50, (2, 24))
    with torch.no_grad():
        expected = hf_model(tokens).logits
        found = GPT.from_params(config, params)(DeviceRows(tokens))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_an_exported_model_gives_equal_logits_there():
    params = init_params(CONFIG, seed=5)
    tokens = torch.randint(0, 50, (2, 24))
    with torch.no_grad():
        expected = GPT.from_params(CONFIG, params)(DeviceRows(tokens))
        found = to_transformers(CONFIG, params)(tokens).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_export_and_import_give_the_same_bits():
    params = init_params(CONFIG, seed=5)
    again = from_huggingface(to_huggingface(params, CONFIG), CONFIG)
    for name, array in params.items():
        np.testing.assert_array_equal(again[name], array)


def test_a_saved_folder_loads_as_pretrained(hf_model, tmp_path):
    hf_model.save_pretrained(tmp_path)
    model = GPT.from_pretrained(str(tmp_path))
    tokens = torch.randint(0, 50, (1, 7))
    with torch.no_grad():
        torch.testing.assert_close(model(DeviceRows(tokens)), hf_model(tokens).logits, rtol=0, atol=2e-5)


def test_missing_misshapen_and_unknown_tensors_are_refused_by_name():
    state = to_huggingface(init_params(CONFIG, seed=0), CONFIG)
    name = "transformer.h.1.mlp.c_fc.weight"
    with pytest.raises(DataError, match=f"no tensor {name}"):
        from_huggingface({k: v for k, v in state.items() if k != name}, CONFIG)
    with pytest.raises(DataError, match=rf"{name} is \(128, 32\), expected \(32, 128\)"):
        from_huggingface(state | {name: state[name].T}, CONFIG)
    with pytest.raises(DataError, match=r"unknown tensor transformer\.h\.9\.extra"):
        from_huggingface(state | {"transformer.h.9.extra": state[name]}, CONFIG)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match="gpt2, gpt2-medium, gpt2-large, gpt2-xl"):
        read_pretrained("gpt3")


def test_a_published_model_that_cannot_be_had_is_one_line(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def refuse(*_, **__):
        raise OSError("We couldn't connect\nto the hub")

    monkeypatch.setattr(transformers.GPT2LMHeadModel, "from_pretrained", refuse)
    with pytest.raises(DataError, match="hf:gpt2: cannot be loaded"):
        read_pretrained("gpt2")


def test_a_variant_of_gpt2_is_refused(hf_model):
    hf_model.config.activation_function = "relu"
    with pytest.raises(DataError, match="activation relu"):
        from_transformers(hf_model)
