"""What can be known to be wrong with a run before anything of it is built."""

from gpt2lab.data import Source, read_source
from gpt2lab.errors import ConfigError
from gpt2lab.record.metrics import COLUMNS
from gpt2lab.schema import RunConfig, parse_stop_when, plain
from gpt2lab.train.setup import specify


class RunChecks:
    """Checks configs against their data, which is read once for all that share it."""

    def __init__(self) -> None:
        self._sources: dict[str, Source] = {}

    def check(self, config: RunConfig) -> dict[str, str]:
        """Return {file: sha256} of the data of a run.

        Raises the ConfigError, DataError or EngineError that the run would raise before its first step.
        """
        check_stop_when(config)
        key = repr((plain(config.data), config.model.vocab_size))
        if key not in self._sources:
            self._sources[key] = read_source(config.data, vocab_size=config.model.vocab_size)
        specify(config, self._sources[key])
        return self._sources[key].files


def check_stop_when(config: RunConfig) -> None:
    """Raise ConfigError when `train.stop_when` names what this run never measures on the way."""
    if config.train.stop_when is None:
        return
    metric = parse_stop_when(config.train.stop_when)[0]
    unmeasured = {column.name for column in COLUMNS if column.name.startswith("test_")}
    if not config.train.eval_train:
        unmeasured |= {"train_eval_loss", "train_accuracy"}
    if not config.train.eval_every:
        unmeasured |= {"val_loss", "val_accuracy", "train_eval_loss", "train_accuracy"}
    names = [column.name for column in COLUMNS if column.name not in unmeasured]
    if metric not in names:
        why = "is not measured while this run trains" if metric in unmeasured else "is no metric"
        raise ConfigError(
            f"train.stop_when={config.train.stop_when}: {metric} {why}; expected one of {', '.join(names)}"
        )
