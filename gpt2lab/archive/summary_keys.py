"""The values of summary.json that are columns of SQL. Those of metrics.csv are in `record.columns`."""

from gpt2lab.record.columns import COLUMNS, Column
from gpt2lab.record.sweep import WORDS

_LOSS = "nats per counted token"


def _best(entry: Column) -> dict[str, tuple[str | None, str]]:
    best, name = "highest" if entry.higher_is_better else "lowest", f"best_{entry.name}"
    step = ("updates", f"step of the {best} {entry.name}")
    return {name: (entry.unit or None, f"{best} {entry.name}"), f"{name}_step": step}


# {name, groups included: (unit, None for text and plain numbers; meaning)}
SUMMARY_KEYS: dict[str, tuple[str | None, str]] = {
    "name": (None, "name of the experiment"),
    "kind": (None, "sweep; NULL for a single run"),
    "status": (None, "how it ended; of a sweep finished or partial"),
    "reason": (None, "why it ended"),
    "date": ("UTC", "when it started"),
    "hypothesis": (None, "what was expected"),
    "tags": (None, "list of tags"),
    "seed": (None, "seed of the run"),
    "data": (None, "data source"),
    "varies": (None, "of a sweep: list of the keys that differ between jobs"),
    "metric": (None, "of a sweep: metric by which its arms are compared"),
    **{f"jobs.{word}": ("jobs", f"of a sweep: jobs in state {word}") for word in WORDS},
    "steps": ("updates", "last step measured"),
    "max_steps": ("updates", "steps planned"),
    "tokens": ("tokens", "training tokens consumed; of a sweep by all jobs"),
    **{entry.name: (entry.unit or None, entry.description) for entry in COLUMNS if entry.format in ("loss", "share")},
    **{name: meaning for entry in COLUMNS if entry.split for name, meaning in _best(entry).items()},
    "loss_step": ("updates", "step of the last val_loss that is finite"),
    "perplexity": (None, "exp(val_loss)"),
    "bits_per_byte": ("bits per byte", "val_loss per byte of the validation split"),
    "gap": (_LOSS, "val_loss minus train_eval_loss, last measured"),
    "accuracy_threshold": (None, "accuracy that counts as reached"),
    "steps_to_train_accuracy": ("updates", "first step with train_accuracy at the threshold"),
    "steps_to_val_accuracy": ("updates", "first step with val_accuracy at the threshold"),
    "delay": ("updates", "steps_to_val_accuracy minus steps_to_train_accuracy"),
    "unigram_entropy": ("nats per token", "entropy of the token frequencies of the validation split"),
    "reachable_val_loss": (_LOSS, "lowest val_loss that the data allow, where known"),
    "random_guess_loss": (_LOSS, "loss of a uniform guess: ln(vocabulary size)"),
    "n_params": (None, "parameters"),
    "n_params_active": (None, "parameters without band zeros and padded vocabulary rows"),
    "flop_per_token_dense": ("FLOP per token", "training FLOP with nothing left out (6N + 12LCT)"),
    "flop_per_token_computed": ("FLOP per token", "training FLOP that the first update computes"),
    "density": (None, "always NULL; each matrix has its own"),
    "density.fc1": (None, "share of the FC1 weights inside the band"),
    "density.fc2": (None, "share of the FC2 weights inside the band"),
    "fc1_band": ("hidden units", "full width of the FC1 band; 0: dense"),
    "fc2_band": ("hidden units", "full width of the FC2 band; 0: dense"),
    "ineffective_bands": (None, "list of bands that keep every weight"),
    "tokens_per_s": ("tokens/s", "median training throughput, first tenth left out"),
    "step_ms": ("ms", "median time of an update, first tenth left out"),
    "peak_mem_mib": ("MiB", "highest memory use, of the device or else of the process"),
    "training_s": ("s", "training time without evaluation; of a sweep by all jobs"),
    "hardware.device": (None, "device of the engine"),
    "hardware.device_name": (None, "its name"),
    "hardware.threads": (None, "threads of the engine"),
    "hardware.cpu": (None, "processor"),
    "hardware.cores": (None, "processor cores"),
    "engine": (None, "engine that trained"),
    "precision": (None, "precision of training"),
    "written_by.report_hash": (None, "hash of the code that wrote the report"),
    **{
        f"written_by.{library}": (None, "version of a library that wrote the report")
        for library in ("jinja2", "matplotlib", "numpy", "scipy")
    },
}
