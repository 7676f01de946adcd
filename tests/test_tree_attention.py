import pytest
from host_kernels import device_with_change
from hypothesis import example, given, settings
from hypothesis import strategies as st
from proofs import tree_attention as proof
from proofs.tree_attention import Bench, Case

from gpt2lab.engine.cuda.device.host import HostDevice, KernelFault
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.engine.cuda.ops.tree_attention import TreeAttention, key_work, key_work_sizes
from gpt2lab.errors import EngineError
from gpt2lab.schema import Precision

# Ranges of queries that are split, more keys than a round takes, groups that fill neither a warp nor a block.
ALL = Case(B=20, T=11, V=2, NH=3, HS=20, chunk=7)
COUNTED = Case(B=20, T=9, V=2, NH=3, HS=8, counted=(3, 8), chunk=4, padding=3)


def failed(checks) -> list[str]:
    return [str(check) for check in checks if not check.passed]


# Heads of 8 and 64 channels, which share what is compiled.
FEW = [case for case in proof.CASES if case.HS in (8, 64)] + [COUNTED]
BOTH = (Precision.fp32, Precision.bf16)
MODES = [
    pytest.param({"checked": True}, Precision.fp32, FEW, marks=pytest.mark.slow),
    ({}, Precision.bf16, FEW),
    ({"float64": True}, Precision.fp32, FEW),
    *(pytest.param({"checked": True}, precision, proof.CASES, marks=pytest.mark.slow) for precision in BOTH),
    *(pytest.param({}, precision, proof.CASES, marks=pytest.mark.slow) for precision in BOTH),
    *(pytest.param({"reverse": True}, precision, proof.CASES, marks=pytest.mark.slow) for precision in BOTH),
    pytest.param({"float64": True}, Precision.fp32, proof.CASES, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("mode", "precision", "cases"), MODES)
def test_attention_over_a_tree_is_that_of_its_rows(mode, precision, cases):
    checks = list(proof.check(HostDevice(**mode), precision, cases))
    assert len(checks) > 7 * len(cases)
    assert failed(checks) == []


@st.composite
def cases(draw: st.DrawFn) -> Case:
    T = draw(st.integers(1, 32))
    counted = draw(st.none() | st.sets(st.integers(0, T - 1), min_size=1, max_size=4))
    return Case(
        B=draw(st.integers(1, 12)),
        T=T,
        V=draw(st.integers(0, 3)),
        NH=draw(st.integers(1, 3)),
        HS=draw(st.sampled_from((1, 3, 8, 20))),
        counted=None if counted is None else tuple(sorted(counted)),
        chunk=draw(st.sampled_from((1, 2, 32))),
        padding=draw(st.integers(0, 2)),
    )


@settings(max_examples=25)
@given(cases())
@example(Case(B=1, T=3, V=0, NH=1, HS=1, chunk=1))  # scores whose gradients nearly cancel
def test_any_tree_is_right(case):
    assert failed(proof.check_case(Bench(HostDevice(), Precision.fp32, case))) == []


@given(cases())
def test_every_query_of_a_key_is_in_one_item_and_sizes_are_bounds(case):
    tree = proof.tree_of(case)
    queries = None if case.counted is None else tree.counted
    items, sums = key_work(tree.ends, queries, chunk=case.chunk)
    seen: list[list[int]] = [[] for _ in range(tree.n_nodes)]
    slots: dict[int, list[int]] = {}
    for key, first, end, slot in items.tolist():
        assert end - first <= case.chunk
        seen[key] += range(first, end)
        slots.setdefault(key, []).append(slot)
    sees = proof.keys_of_queries(case)
    assert seen == [[i for i, keys in enumerate(sees) if key in keys] for key in range(tree.n_nodes)]
    summed = {key: list(range(first, end)) for key, first, end in sums.tolist()}
    assert slots == {key: summed.get(key, [-1]) for key in range(tree.n_nodes)}
    n_slots = 1 + int(items[:, 3].max())
    assert [slot for of_key in summed.values() for slot in of_key] == list(range(n_slots))
    sizes = len(items), len(sums), n_slots
    most = key_work_sizes(tree.n_nodes, len(sees), case.T, chunk=case.chunk)
    assert all(size <= bound for size, bound in zip(sizes, most, strict=True))


@pytest.mark.parametrize("case", [ALL, COUNTED], ids=str)
def test_the_backward_pass_is_the_derivative_of_the_forward_pass(case):
    bench = Bench(HostDevice(float64=True), Precision.fp32, case)
    q, qkv, dout = bench.inputs()
    dq, dqkv = bench.backward(dout, *bench.forward(q, qkv), q, qkv)
    C, step = bench.C, 1e-5
    for _ in range(4):
        along_q, along = bench.arrays.normal(*q.shape), bench.arrays.normal(*qkv.shape)
        if case.counted is None:
            along[:, :C] = along_q
        ends = (bench.forward(q + h * along_q, qkv + h * along)[0] for h in (step, -step))
        up, down = ((out * dout).sum() for out in ends)
        slope = (dq * along_q).sum() + (dqkv[:, C:] * along[:, C:]).sum()
        assert slope == pytest.approx((up - down) / (2 * step), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "right", "wrong"),
    [
        (ALL, "positions[node] + 1 : 0", "positions[node] : 0"),
        (ALL, "path[(long long)node * T + first + j]", "(node - positions[node] + first + j)"),
        (COUNTED, "&& nodes ? nodes[group.row] :", "&& !nodes ? 0 :"),
        (ALL, "sum *= correction;", ""),
        (ALL, "(dp - row_delta)", "dp"),
        (COUNTED, "dk.at[n].at[e] *= scale", "dk.at[n].at[e] *= 1.0f"),
        (ALL, "const bool exists = i < end", "const bool exists = i < end - 1"),
        (ALL, "slot += THREADS / WARP", "slot += 1"),
    ],
)
def test_a_wrong_kernel_is_found_out(tmp_path, case, right, wrong):
    bench = Bench(device_with_change(tmp_path, "attention_tree.cu", right, wrong), Precision.bf16, case)
    assert failed(proof.check_case(bench)) != []


def test_a_missing_barrier_is_found_out(tmp_path):
    bench = Bench(device_with_change(tmp_path, "attention_tree.cu", "    __syncthreads();\n", ""), Precision.fp32, ALL)
    with pytest.raises(KernelFault, match="attention_tree_sum"):
        list(proof.check_case(bench))


def test_heads_that_are_too_large_are_refused_by_name():
    device = HostDevice()
    with pytest.raises(EngineError, match=r"n_embd / model.n_head: heads of 257 channels; .* 1 to 256"):
        TreeAttention(device, Numerics.of(device, Precision.fp32), n_head=1, head_size=257)
