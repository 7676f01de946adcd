"""The values of summary.json: one `SummaryKey` for each that is a column of SQL. The metrics have theirs in
`record.columns`.
"""

from dataclasses import dataclass

from gpt2lab.record.columns import COLUMNS, Column
from gpt2lab.record.sweep import WORDS

_LOSS = "nats per counted token"


@dataclass(frozen=True, slots=True)
class SummaryKey:
    """One value of summary.json; groups are part of the name."""

    name: str
    unit: str  # "" for a plain number, and for text
    meaning: str


def _best(entry: Column) -> list[SummaryKey]:
    best, name = "highest" if entry.higher_is_better else "lowest", f"best_{entry.name}"
    step = SummaryKey(f"{name}_step", "updates", f"step of the {best} {entry.name}")
    return [SummaryKey(name, entry.unit, f"{best} {entry.name}"), step]


SUMMARY_KEYS: tuple[SummaryKey, ...] = (
    SummaryKey("name", "", "name of the experiment"),
    SummaryKey("kind", "", "sweep; NULL for a single run"),
    SummaryKey("status", "", "how it ended; of a sweep finished or partial"),
    SummaryKey("reason", "", "why it ended"),
    SummaryKey("date", "UTC", "when it started"),
    SummaryKey("hypothesis", "", "what was expected"),
    SummaryKey("tags", "", "list of tags"),
    SummaryKey("seed", "", "seed of the run"),
    SummaryKey("data", "", "data source"),
    SummaryKey("varies", "", "of a sweep: list of the keys that differ between jobs"),
    SummaryKey("metric", "", "of a sweep: metric by which its arms are compared"),
    *(SummaryKey(f"jobs.{word}", "jobs", f"of a sweep: jobs in state {word}") for word in WORDS),
    SummaryKey("steps", "updates", "last step measured"),
    SummaryKey("max_steps", "updates", "steps planned"),
    SummaryKey("tokens", "tokens", "training tokens consumed; of a sweep by all jobs"),
    *(SummaryKey(entry.name, entry.unit, entry.description) for entry in COLUMNS if entry.format in ("loss", "share")),
    *(key for entry in COLUMNS if entry.split for key in _best(entry)),
    SummaryKey("loss_step", "updates", "step of the last val_loss that is finite"),
    SummaryKey("perplexity", "", "exp(val_loss)"),
    SummaryKey("bits_per_byte", "bits per byte", "val_loss per byte of the validation split"),
    SummaryKey("gap", _LOSS, "val_loss minus train_eval_loss, last measured"),
    SummaryKey("accuracy_threshold", "", "accuracy that counts as reached"),
    SummaryKey("steps_to_train_accuracy", "updates", "first step with train_accuracy at the threshold"),
    SummaryKey("steps_to_val_accuracy", "updates", "first step with val_accuracy at the threshold"),
    SummaryKey("delay", "updates", "steps_to_val_accuracy minus steps_to_train_accuracy"),
    SummaryKey("unigram_entropy", "nats per token", "entropy of the token frequencies of the validation split"),
    SummaryKey("reachable_val_loss", _LOSS, "lowest val_loss that the data allow, where known"),
    SummaryKey("random_guess_loss", _LOSS, "loss of a uniform guess: ln(vocabulary size)"),
    SummaryKey("n_params", "", "parameters"),
    SummaryKey("n_params_active", "", "parameters without band zeros and padded vocabulary rows"),
    SummaryKey("flop_per_token_dense", "FLOP per token", "training FLOP with nothing left out (6N + 12LCT)"),
    SummaryKey("flop_per_token_computed", "FLOP per token", "training FLOP that the first update computes"),
    SummaryKey("density", "", "always NULL; each matrix has its own"),
    SummaryKey("density.fc1", "", "share of the FC1 weights inside the band"),
    SummaryKey("density.fc2", "", "share of the FC2 weights inside the band"),
    SummaryKey("fc1_band", "hidden units", "full width of the FC1 band; 0: dense"),
    SummaryKey("fc2_band", "hidden units", "full width of the FC2 band; 0: dense"),
    SummaryKey("ineffective_bands", "", "list of bands that keep every weight"),
    SummaryKey("tokens_per_s", "tokens/s", "median training throughput, first tenth left out"),
    SummaryKey("step_ms", "ms", "median time of an update, first tenth left out"),
    SummaryKey("peak_mem_mib", "MiB", "highest memory use, of the device or else of the process"),
    SummaryKey("training_s", "s", "training time without evaluation; of a sweep by all jobs"),
    SummaryKey("hardware.device", "", "device of the engine"),
    SummaryKey("hardware.device_name", "", "its name"),
    SummaryKey("hardware.threads", "", "threads of the engine"),
    SummaryKey("hardware.cpu", "", "processor"),
    SummaryKey("hardware.cores", "", "processor cores"),
    SummaryKey("engine", "", "engine that trained"),
    SummaryKey("precision", "", "precision of training"),
    SummaryKey("written_by.report_hash", "", "hash of the code that wrote the report"),
    *(
        SummaryKey(f"written_by.{library}", "", "version of a library that wrote the report")
        for library in ("jinja2", "matplotlib", "numpy", "scipy")
    ),
)
