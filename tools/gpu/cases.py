"""What is timed: models, batches and precisions; and the same list shrunk for a rehearsal."""

from dataclasses import dataclass, replace

import numpy as np

from gpt2lab.model.bands import is_dense
from gpt2lab.model.params import GPTConfig
from gpt2lab.schema import Precision

GPT2_VOCAB = 50257
EQUATIONS_VOCAB = 105  # 0 ... 96, BOS, EOS, =, and five operations: gpt2lab/data/sources/modular.py
PRIME = 97
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
    prime: int | None = None  # batches are rows of additions modulo it; None: of random tokens
    seconds: float  # what the case takes in all on an H200, compilation by PyTorch included: a guess, for the budget

    @property
    def tokens(self) -> int:
        return self.batch_size * self.seq_len

    @property
    def banded(self) -> bool:
        return not all(is_dense(self.model.n_embd, band) for band in self.model.bands.values())

    @property
    def leaves_out(self) -> bool:
        """Whether anything need not be computed: then it is timed with everything computed too."""
        return self.banded or self.counted is not None or self.prime is not None


def _model(n_layer: int, n_head: int, n_embd: int, seq_len: int, vocab_size: int = GPT2_VOCAB) -> GPTConfig:
    return GPTConfig(n_layer=n_layer, n_head=n_head, n_embd=n_embd, max_seq_len=seq_len, vocab_size=vocab_size)


def batches_of(case: Case, n: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return n batches of inputs and targets, (B, T) int32; the whole training split is one, the same n times."""
    rng, shape = np.random.default_rng(1), (case.batch_size, case.seq_len)
    if case.prime is None:
        return [tuple(pair) for pair in rng.integers(0, case.model.vocab_size, (n, 2, *shape), dtype=np.int32)]
    p = case.prime
    a, b = np.divmod(rng.permutation(p * p)[: p * p // 2], p)
    # BOS a + b = c EOS EOS, as gpt2lab/data/sources/modular.py has it; rows go on with themselves.
    columns = (p, a, p + 3, b, p + 2, (a + b) % p, p + 1, p + 1)
    rows = np.stack(np.broadcast_arrays(*columns), axis=1).astype(np.int32)
    if case.batch_size < len(rows):
        chosen = [rows[rng.permutation(len(rows))[: case.batch_size]] for _ in range(n)]
        return [(each, np.roll(each, -1, axis=1)) for each in chosen]
    whole = rows, np.roll(rows, -1, axis=1)
    for array in whole:
        array.flags.writeable = False  # an engine plans its passes once
    return [whole] * n


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
                cases.append(_case("equations", equations, batch_size, precision, counted, seconds=12))
    for band in (256, 512, 1024):
        cases.append(_case("124M", replace(GPT2_124M, fc1_band=band, fc2_band=band), 64, bf16, seconds=120))
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
    if model.fc1_band:
        parts.append(f"bands of {model.fc1_band}")
    return Case(
        name=" ".join(parts),
        model=model,
        batch_size=batch_size,
        seq_len=model.max_seq_len,
        precision=precision,
        counted=counted,
        prime=PRIME if name == "equations" else None,
        seconds=seconds,
    )


def rehearsed(case: Case) -> Case:
    """Return the case with a model and a batch so small that a processor can run it."""
    bands = {"fc1_band": 9, "fc2_band": 9} if case.banded else {}
    model = replace(_model(1, 2, 16, 8, 97), **bands)
    name = f"rehearsal of {case.name}"  # its figures must not be taken for those of the case
    prime = case.prime and 5
    batch_size = prime * prime // 2 if prime else 2
    return replace(
        case, name=name, model=model, batch_size=batch_size, seq_len=model.max_seq_len, prime=prime, seconds=1.0
    )


def chosen_cases(names: list[str] | None, *, rehearsal: bool) -> list[Case]:
    """Return the cases whose name contains one of `names` (all for None); in a rehearsal one of each kind."""
    cases = all_cases()
    if names:
        found = [case for case in cases if any(name in case.name for name in names)]
        if not found:
            raise ValueError(f"no case is named {', '.join(names)}; there are: {'; '.join(c.name for c in cases)}")
        cases = found
    elif rehearsal:
        cases = [cases[0], next(c for c in cases if c.counted), next(c for c in cases if c.banded)]
    return [rehearsed(case) for case in cases] if rehearsal else cases
