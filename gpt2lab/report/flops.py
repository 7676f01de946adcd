"""The two FLOP figures of a record (model/flops.py defines them), and where older records have them."""

from typing import Any, Literal

from gpt2lab.report.inputs import Inputs


def flop_per_token(inputs: Inputs, kind: Literal["dense", "computed"]) -> int | None:
    """Return dense or computed FLOP per token; None where not recorded, or where the runs of a sweep differ.

    Older records call the dense figure `flop_per_token`. Some hold the FLOP of the first update, dense and done, with
    only the causal pairs of attention counted: their ratio is applied to the dense figure. The oldest do not say what
    was computed.
    """
    model = inputs.fact("provenance.model") or {}
    found = _count(model.get(f"flop_per_token_{kind}"))
    if found is not None:
        return found
    dense, work = _count(model.get("flop_per_token")), model.get("work") or {}
    if kind == "dense" or dense is None:
        return dense
    plain, done = _count(work.get("flop_dense")), _count(work.get("flop_done"))
    return round(dense * done / plain) if plain and done else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
