"""The token embedding, in and out, against indexing, slicing and PyTorch's cross entropy."""

import pytest
import torch
from proof import compare, tolerance
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gpt2lab.engine.torch.embedding import KeptMemory, TiedEmbedding
from gpt2lab.engine.torch.targets import Targets

SHAPES = [(17, 32), (8, 8), (1, 128), (1030, 1100)]  # real rows, and with padding; the last in several products


def filled(vocab_size: int, padded: int, n_embd: int, dtype: torch.dtype = torch.float32) -> TiedEmbedding:
    embedding = TiedEmbedding(vocab_size, padded, n_embd).to(dtype)
    torch.nn.init.normal_(embedding.weight, generator=torch.Generator().manual_seed(0))
    return embedding


def plain_copy(embedding: TiedEmbedding) -> torch.Tensor:
    return embedding.weight.detach().clone().requires_grad_()


def plain_loss(x: torch.Tensor, weight: torch.Tensor, vocab_size: int, targets: Targets) -> torch.Tensor:
    logits = F.linear(x, weight[:vocab_size])
    rows = torch.arange(len(x)) if targets.rows is None else targets.rows
    wide = logits if logits.dtype == torch.float64 else logits.float()
    losses = F.cross_entropy(wide[rows], targets.tokens, reduction="none")
    return (losses if targets.counts is None else losses * targets.counts).sum()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("rows", [None, [0, 0, 5, 1, 5, 2]])
@pytest.mark.parametrize(("vocab_size", "padded"), SHAPES)
def test_loss_and_gradients_are_those_of_a_slice(vocab_size, padded, rows, autocast):
    embedding = filled(vocab_size, padded, 12)
    weight = plain_copy(embedding)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.tensor([0, 7, 3, 16, 16, 2]) % vocab_size
    targets = Targets(tokens)
    if rows is not None:
        targets = Targets(tokens, torch.tensor(rows), torch.tensor([1, 3, 2, 1, 1, 5]))
    x = torch.randn(6, 12, generator=generator).requires_grad_()
    plain_x = x.detach().clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        found, expected = embedding.loss_sum(x, targets), plain_loss(plain_x, weight, vocab_size, targets)
    (found / 7).backward()
    (expected / 7).backward()
    # At most all tokens, 13 counts or 12 channels are summed; logits, probabilities and gradients are stored.
    allowed = tolerance(terms=max(vocab_size, 13), store="bf16" if autocast else "fp32", roundings=4)
    pairs = {"loss": (found, expected), "x": (x.grad, plain_x.grad), "weight": (embedding.weight.grad, weight.grad)}
    for name, (ours, theirs) in pairs.items():
        check = compare(name, ours.detach().numpy(), theirs.detach().numpy().astype("float64"), allowed)
        assert check.passed, str(check)
    assert not embedding.weight.grad[vocab_size:].any()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize(("vocab_size", "padded"), SHAPES)
def test_evaluation_gives_the_loss_and_counts_what_the_logits_find_likeliest(vocab_size, padded, autocast):
    embedding = filled(vocab_size, padded, 12)
    x = torch.randn(40, 12, generator=torch.Generator().manual_seed(1))
    targets = Targets(torch.arange(40) % vocab_size)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        expected, logits = embedding.loss_sum(x, targets).item(), embedding.logits(x)
        found, n_correct = embedding.evaluate(x, targets)
    assert logits.shape == (40, vocab_size) and not found.requires_grad
    assert (found.item(), n_correct) == (expected, targets.n_correct(logits))
    x, weight = x.double(), embedding.weight[:vocab_size].double()
    exact = F.cross_entropy(F.linear(x, weight), targets.tokens, reduction="sum").item()
    rounded = F.linear(x.bfloat16().double(), weight.bfloat16().double()).bfloat16().double()
    at_bfloat16 = F.cross_entropy(rounded, targets.tokens, reduction="sum").item()
    assert expected == pytest.approx(at_bfloat16 if autocast else exact, rel=1e-6)
    assert vocab_size == 1 or at_bfloat16 != pytest.approx(exact, rel=1e-5)


def test_the_likeliest_token_is_found_before_logits_are_rounded_again():
    embedding = filled(2, 2, 1)
    embedding.weight.data[:] = torch.tensor([[0.1], [torch.nextafter(torch.tensor(0.1), torch.tensor(1.0))]])
    assert embedding.evaluate(torch.ones(1, 1), Targets(torch.tensor([1])))[1] == 1


def test_float64_stays_so_under_autocast():
    embedding, targets = filled(17, 32, 12, torch.float64), Targets(torch.tensor([3]))
    x = torch.ones(1, 12, dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = embedding.loss_sum(x, targets)
    assert found.dtype == torch.float64 and found == embedding.loss_sum(x, targets)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("uses", [("in", "out"), ("in",), ("out",), ("in", "logits")])
def test_both_uses_of_one_embedding_add_up_over_passes(uses, autocast):
    dtype = torch.float32 if autocast else torch.float64
    embedding = filled(13, 32, 6, dtype)
    weight = plain_copy(embedding)
    generator = torch.Generator().manual_seed(2)

    def backward(start: torch.Tensor, tokens: torch.Tensor, targets: Targets, *, ours: bool) -> None:
        x = start.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            if "in" in uses:
                x = x + (embedding(tokens) if ours else F.embedding(tokens, weight))
            if "out" in uses:
                x = embedding.loss_sum(x, targets) if ours else plain_loss(x, weight, 13, targets)
            elif "logits" in uses:
                x = embedding.logits(x) if ours else F.linear(x, weight[:13])
        (x.to(dtype) ** 2).sum().backward()

    for _ in range(2):  # updates: memory of the first gradient is there in the second
        embedding.weight.grad = weight.grad = None
        for n_rows in (5, 3, 6):
            tokens, wanted = torch.randint(13, (2, n_rows), generator=generator)
            start = torch.randn(n_rows, 6, generator=generator, dtype=dtype)
            for ours in (True, False):
                backward(start, tokens, Targets(wanted), ours=ours)
        # At most 14 rows are summed; in bfloat16 logits, their gradients and each pass's product are rounded.
        allowed = tolerance(terms=14, store="bf16", roundings=4) if autocast else 1e-13
        assert embedding.weight.grad is not None and weight.grad is not None
        check = compare("gradient", embedding.weight.grad.numpy(), weight.grad.double().numpy(), allowed)
        assert check.passed, str(check)


class Storages(TorchDispatchMode):
    """Notes the memory of what operations return, if it is of `n_bytes` or more."""

    def __init__(self, n_bytes: int) -> None:
        super().__init__()
        self.n_bytes = n_bytes
        self.found: dict[int, torch.UntypedStorage] = {}  # by address; held, so that no address comes twice

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().nbytes() >= self.n_bytes:
                self.found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return out


@pytest.mark.parametrize("autocast", [False, True])
def test_one_array_of_the_size_of_float32_logits_is_made_in_all(autocast):
    embedding, gradients = filled(13, 32, 6), set()
    with Storages(n_bytes=4 * 40 * 16) as large:
        for n_rows in (40, 40, 30):
            x, targets = torch.ones(n_rows, 6, requires_grad=True), Targets(torch.arange(n_rows) % 13)
            embedding.weight.grad = None
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                loss = embedding.loss_sum(x, targets)
            loss.backward()
            gradients.add(embedding.weight.grad.data_ptr())
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
                embedding.evaluate(x, targets)
    assert len(large.found) == 1 and len(gradients) == 1


def test_memory_is_kept_on_a_processor_and_for_one_dtype():
    memory, cpu = KeptMemory(), torch.device("cpu")
    first = memory.empty((3, 2), torch.float32, cpu)
    assert memory.empty((2, 2), torch.float32, cpu).data_ptr() == first.data_ptr()
    assert memory.empty((2, 2), torch.float64, cpu).dtype == torch.float64
    elsewhere = memory.empty((2,), torch.float32, torch.device("meta"))
    assert elsewhere.device.type == "meta" and memory.empty_like(elsewhere).device.type == "meta"


def test_what_would_read_overwritten_memory_is_refused():
    embedding, x, targets = filled(13, 16, 6), torch.ones(2, 6, requires_grad=True), Targets(torch.tensor([0, 1]))
    loss = embedding.loss_sum(x, targets)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    first, _ = embedding.loss_sum(x, targets), embedding.loss_sum(x * 2, targets)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        first.backward()


def test_nothing_is_kept_for_a_gradient_that_nobody_wants():
    embedding, tokens = filled(3, 4, 2), torch.tensor([1])
    with torch.no_grad():
        assert not embedding(tokens).requires_grad
    embedding.weight.requires_grad_(False)
    assert not embedding(tokens).requires_grad
    x = torch.ones(1, 2, requires_grad=True)
    embedding.loss_sum(x, Targets(tokens)).backward()
    assert x.grad is not None and embedding.weight.grad is None
