import pytest

from gpt2lab.errors import ConfigError
from gpt2lab.schema import (
    DataConfig,
    DeviceChoice,
    EngineConfig,
    EngineName,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ScheduleConfig,
    SparsityName,
    TrainConfig,
    counted_positions,
    parse_stop_when,
    plain,
)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ModelConfig(n_embd=100, n_head=3), r"model\.n_embd=100 is not divisible by model\.n_head=3"),
        (lambda: ModelConfig(n_layer=0), r"model\.n_layer=0: expected at least 1"),
        (lambda: DataConfig(train_fraction=1.0), r"data\.train_fraction=1\.0: expected above 0 and below 1"),
        (lambda: DataConfig(prime=1), r"data\.prime=1"),
        (lambda: OptimConfig(beta1=1.5), r"optim\.beta1=1\.5: expected at least 0 and below 1"),
        (lambda: OptimConfig(eps=0), r"optim\.eps=0"),
        (lambda: OptimConfig(grad_clip=-1), r"optim\.grad_clip=-1"),
        *[
            (lambda name=name, value=value: OptimConfig(**{name: value}), rf"optim\.{name}={value}")
            for name in ("learning_rate", "beta1", "beta2", "eps", "weight_decay", "grad_clip")
            for value in (float("nan"), float("inf"))
        ],
        (lambda: OptimConfig(beta2=1.0), r"optim\.beta2=1\.0: expected at least 0 and below 1"),
        (lambda: ModelConfig(n_embd=10**9, n_head=1), r"model\.n_embd=1000000000: expected at most"),
        (lambda: RunConfig(fc1_band=10**23, sparsity=SparsityName.banded), r"fc1_band=1000"),
        (lambda: ScheduleConfig(final_lr_fraction=2), r"schedule\.final_lr_fraction=2"),
        (lambda: TrainConfig(batch_size="half"), r"train\.batch_size=half: expected a number of sequences, or full"),
        (lambda: TrainConfig(batch_size=0), r"train\.batch_size=0"),
        (lambda: TrainConfig(time_limit=0), r"train\.time_limit=0"),
        (lambda: TrainConfig(log_every=0), r"train\.log_every=0"),
        (lambda: RunConfig(seed=-1), r"seed=-1"),
        (lambda: RunConfig(seed=2**63), r"seed=9223372036854775808"),
        (lambda: RunConfig(fc2_band=-2, sparsity=SparsityName.banded), r"fc2_band=-2"),
        (lambda: RunConfig(train=TrainConfig(seq_len=300)), r"train\.seq_len=300 is above model\.max_seq_len=256"),
        (lambda: RunConfig(task_position=256), r"go from 0 to 255"),
        (lambda: RunConfig(task_position=[4, 2]), r"task_position=\[4, 2\]: it ends before it begins"),
        (
            lambda: RunConfig(train=TrainConfig(batch_size=4, micro_batch_size=8)),
            r"train\.micro_batch_size=8 is above train\.batch_size=4",
        ),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_its_dotted_key(build, words):
    with pytest.raises(ConfigError, match=words) as error:
        build()
    assert "\n" not in str(error.value)


def test_a_band_with_dense_sparsity_names_both_ways_out():
    with pytest.raises(ConfigError) as error:
        RunConfig(fc1_band=256, fc2_band=64)
    assert "fc1_band=256 fc2_band=64" in str(error.value)
    assert "sparsity=banded" in str(error.value)
    assert "fc1_band=0 and fc2_band=0" in str(error.value)
    assert RunConfig(sparsity=SparsityName.banded).fc1_band == 0  # the dense cell of a sweep over bands


@pytest.mark.parametrize(
    ("task_position", "expected"),
    [(None, None), (4, (4,)), ([9, 16], tuple(range(9, 17))), ([3, 3], (3,)), ("auto", (5, 6)), (0, (0,)), (19, (19,))],
)
def test_counted_positions_are_those_of_the_rule(task_position, expected):
    assert counted_positions(task_position, 20, (5, 6)) == expected


@pytest.mark.parametrize("task_position", [-1, 20, [9, 20], [5, 4], [1], [1, 2, 3], "first", 4.0, True, [True, 3], {}])
def test_positions_of_another_kind_or_outside_the_row_are_refused(task_position):
    with pytest.raises(ConfigError, match="task_position="):
        counted_positions(task_position, 20, None)


def test_auto_needs_an_answer_span():
    with pytest.raises(ConfigError, match="this data has no answer span"):
        counted_positions("auto", 20, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("val_accuracy>=0.99", ("val_accuracy", ">=", 0.99)),
        ("train_loss < 1e-2", ("train_loss", "<", 0.01)),
        ("step>5", ("step", ">", 5.0)),
        ("val_loss<=2", ("val_loss", "<=", 2.0)),
    ],
)
def test_stop_when_is_read(text, expected):
    assert parse_stop_when(text) == expected


@pytest.mark.parametrize(
    "text", ["val_accuracy", "val_accuracy>=", "val_accuracy>=much", "val_loss<=nan", "val_loss<=inf", "=3", ""]
)
def test_a_stop_when_of_another_form_is_refused(text):
    with pytest.raises(ConfigError, match=r"expected METRIC>=NUMBER"):
        parse_stop_when(text)


def test_a_config_becomes_plain_values():
    settings = plain(RunConfig())
    assert settings["data"]["source"] == "pydocs"
    assert settings["sparsity"] == "dense"
    assert settings["tags"] == []


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"name": EngineName.cuda, "device": DeviceChoice.cpu},
            r"engine\.device=cpu: engine=cuda runs on cuda, or on host",
        ),
        ({"name": EngineName.cuda, "device": DeviceChoice.mps}, r"engine\.device=mps: .*engine=torch has cpu and mps"),
        ({"name": EngineName.torch, "device": DeviceChoice.host}, r"engine\.device=host .* add engine=cuda"),
        ({"device": DeviceChoice.host}, r"engine\.device=host .* add engine=cuda"),
        ({"name": EngineName.torch, "graph": True}, r"engine\.graph=true: engine=torch has no CUDA graphs"),
        (
            {"name": EngineName.cuda, "device": DeviceChoice.host, "graph": True},
            r"engine\.device=host has no CUDA graphs",
        ),
    ],
)
def test_what_an_engine_does_not_have_is_refused_by_name(settings, words):
    with pytest.raises(ConfigError, match=words):
        EngineConfig(**settings)
