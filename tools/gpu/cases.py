"""What is timed: models, batches and precisions; and the same list shrunk for a rehearsal."""

from dataclasses import dataclass, replace

from gpt2lab.model.params import GPTConfig
from gpt2lab.schema import Precision

GPT2_VOCAB = 50257
EQUATIONS_VOCAB = 105  # 0 ... 96, BOS, EOS, =, and five operations: gpt2lab/data/synthetic.py
ANSWER = (4,)  # the target position of an equation's result

# What comes before the first case takes about this long on an H200, kernels compiled for the first time: guesses.
PROOF_SECONDS, MEASURING_SECONDS = 90.0, 35.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One training step to be timed on both sides."""

    name: str
    model: GPTConfig
    batch_size: int
    seq_len: int
    precision: Precision
    counted: tuple[int, ...] | None = None  # target positions; None = all
    seconds: float  # what the case takes in all on an H200, compilation by PyTorch included: a guess, for the budget

    @property
    def tokens(self) -> int:
        return self.batch_size * self.seq_len


def _model(n_layer: int, n_head: int, n_embd: int, seq_len: int, vocab_size: int = GPT2_VOCAB) -> GPTConfig:
    return GPTConfig(n_layer=n_layer, n_head=n_head, n_embd=n_embd, max_seq_len=seq_len, vocab_size=vocab_size)


GPT2_124M = _model(12, 12, 768, 1024)


def all_cases() -> list[Case]:
    """Return every case, the most telling first: what the time does not suffice for is left out at the end."""
    bf16, tf32, fp32 = Precision.bf16, Precision.tf32, Precision.fp32
    cases = [
        _case("124M", GPT2_124M, 16, bf16, seconds=50),
        _case("124M", GPT2_124M, 64, bf16, seconds=55),
        _case("51M", _model(8, 8, 512, 512), 8, bf16, seconds=30),
        _case("7.3M", _model(4, 4, 128, 256), 64, bf16, seconds=20),
    ]
    equations = _model(2, 4, 128, 8, EQUATIONS_VOCAB)
    for counted in (ANSWER, None):
        for precision in (tf32, fp32):
            for batch_size in (4704, 256):
                cases.append(_case("equations", equations, batch_size, precision, counted, seconds=10))
    cases += [_case("124M", GPT2_124M, 16, tf32, seconds=45), _case("124M", GPT2_124M, 16, fp32, seconds=45)]
    return cases


def _case(
    name: str,
    model: GPTConfig,
    batch_size: int,
    precision: Precision,
    counted: tuple[int, ...] | None = None,
    *,
    seconds: float,
) -> Case:
    parts = [name, f"{batch_size}x{model.max_seq_len}", precision.name]
    if name == "equations":
        parts.append("all positions" if counted is None else "answer only")
    return Case(
        name=" ".join(parts),
        model=model,
        batch_size=batch_size,
        seq_len=model.max_seq_len,
        precision=precision,
        counted=counted,
        seconds=seconds,
    )


def rehearsed(case: Case) -> Case:
    """Return the case with a model and a batch so small that a processor can run it."""
    model = _model(1, 2, 16, 8, 97)
    name = f"rehearsal of {case.name}"  # its figures must not be taken for those of the case
    return replace(case, name=name, model=model, batch_size=2, seq_len=model.max_seq_len, seconds=1.0)


def chosen_cases(names: list[str] | None, *, rehearsal: bool) -> list[Case]:
    """Return the cases whose name contains one of `names` (all for None); in a rehearsal one of each kind."""
    cases = all_cases()
    if names:
        found = [case for case in cases if any(name in case.name for name in names)]
        if not found:
            raise ValueError(f"no case is named {', '.join(names)}; there are: {'; '.join(c.name for c in cases)}")
        cases = found
    elif rehearsal:
        cases = [cases[0], next(case for case in cases if case.counted)]
    return [rehearsed(case) for case in cases] if rehearsal else cases
