"""Checks of a run before anything of it is built."""

from pathlib import Path

from gpt2lab.data import Source, read_source
from gpt2lab.engine import check_spec, is_published, read_weights_shape
from gpt2lab.errors import ConfigError
from gpt2lab.record import columns
from gpt2lab.record.disk import file_sha256
from gpt2lab.schema import RunConfig, parse_stop_when, plain
from gpt2lab.train.evaluate import evaluated_splits
from gpt2lab.train.setup import check_weights, model_shape, specify


class RunChecks:
    """Checks configs against their data, which is read once for all that share it."""

    def __init__(self) -> None:
        self._sources: dict[str, Source] = {}

    def check(self, config: RunConfig, *, elsewhere: bool = False) -> dict[str, str]:
        """Return {file: sha256} of what a run reads: its data, and the weights it starts from.

        Raises the ConfigError, DataError or EngineError that the run would raise before its first step; not for an
        engine or a device that this machine lacks when the run is to be `elsewhere`.
        """
        check_stop_when(config)
        key = repr((plain(config.data), config.model.vocab_size))
        if key not in self._sources:
            self._sources[key] = read_source(config.data, vocab_size=config.model.vocab_size)
        source = self._sources[key]
        spec, _ = specify(config, source)
        if not elsewhere:
            check_spec(spec)
        weights = config.model.init_from
        if weights is None or is_published(weights):  # a published model is loaded only where it is trained
            return source.files
        check_weights(config, read_weights_shape(weights), model_shape(config, source.vocab_size))
        return source.files | {"model.init_from": file_sha256(Path(weights))}


def check_stop_when(config: RunConfig) -> None:
    """Raise ConfigError when `train.stop_when` names a metric that this run does not measure while it trains."""
    if config.train.stop_when is None:
        return
    metric = parse_stop_when(config.train.stop_when)[0]
    splits = ("", *(evaluated_splits(config.train) if config.train.eval_every else ()))
    names = [entry.name for entry in columns.COLUMNS if entry.split in splits]
    if metric not in names:
        known = metric in (entry.name for entry in columns.COLUMNS)
        why = "is not measured while this run trains" if known else "is no metric"
        raise ConfigError(
            f"train.stop_when={config.train.stop_when}: {metric} {why}; expected one of {', '.join(names)}"
        )
