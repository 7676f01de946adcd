"""The passes of a batch on the device: whole numbers that say which rows there are, what they see and what is counted.

Each pass has one block of the arena's array `passes`. It begins behind the most that the passes before it can need, so
that where an array lies follows from the shape of the batch and the kind of this pass, and a recorded step finds it. A
block is filled on the host and copied at once.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.ops.embedding import group_rows, segments_size
from gpt2lab.engine.cuda.ops.positions import slots_of
from gpt2lab.engine.cuda.ops.tree_attention import key_work, key_work_sizes
from gpt2lab.engine.passes import Pass, PrefixTree

_ALIGNMENT = 64  # int32: 256 bytes, as every array of the arena
_UNUSED = -1  # what follows the values of an array; an index that the host device finds outside of any array
_GRID_STEPS = 16  # between a power of two and the next
_SMALLEST_STEP = 16
_ITEM_COLUMNS, _SUM_COLUMNS = 4, 3  # as from `key_work`


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePass:
    """One pass over B sequences of T positions, or over the nodes of a tree as one sequence; arrays are int32."""

    B: int
    T: int  # of a tree: how many nodes
    arrays: Mapping[str, Array]  # those of `block_lengths`; of a pass that nothing is counted in, tokens alone
    n_logits: int = 0  # rows of logits
    counted: Array | None = None  # (n,) which rows of each sequence these are; None = every one
    slots: Array | None = None  # (T,) the inverse, -1 where there is none
    trims_last: bool = False  # the last layer computes no more than keys and values elsewhere
    place: tuple[int, int] = (0, 0)  # where its block begins and ends

    @property
    def is_tree(self) -> bool:
        return "path" in self.arrays

    def named(self, *names: str) -> dict[str, Array]:
        """Return those arrays of these names that the pass has."""
        return {name: self.arrays[name] for name in names if name in self.arrays}

    @property
    def rows(self) -> int:
        return self.B * self.T

    @property
    def key(self) -> tuple[int, ...]:
        """What a recorded step depends on besides the values in the arrays."""
        key = (*self.place, self.B, self.T, self.n_logits)
        if not self.is_tree:
            return key
        work = self.named("items", "sums", "counted_items", "counted_sums")
        return (*key, self.arrays["path"].shape[1], *map(len, work.values()))


def block_lengths(B: int, T: int, n: int, vocab_size: int, *, tree: bool) -> dict[str, int]:
    """Return {array: most int32} of a pass over B sequences of T positions, n of them counted, as rows or as a tree.

    order and segments are as from `group_rows`; of a tree (PrefixTree), items and sums as from `key_work` where every
    node is a query, counted_items and counted_sums where the counted ones are: none unless the last layer is trimmed.
    """
    nodes, logits = B * T, B * n
    lengths = {"tokens": nodes, "order": nodes, "segments": segments_size(nodes, vocab_size), "targets": logits}
    if tree:
        lengths |= {"positions": nodes, "position_order": nodes, "position_segments": segments_size(nodes, T)}
        lengths |= {"path": nodes * T, "counted": logits, "slots": nodes}
        lengths |= {"pair_begins": logits + 1, "counts": logits}
        for prefix, queries in (("", nodes), ("counted_", logits)):
            n_items, n_sums, _ = key_work_sizes(nodes, queries, T)
            lengths |= {f"{prefix}items": _ITEM_COLUMNS * n_items, f"{prefix}sums": _SUM_COLUMNS * n_sums}
    return lengths


def block_size(B: int, T: int, n: int, vocab_size: int, *, shares: bool) -> int:
    """Return the int32 that a pass needs at most; `shares`: it may be a tree."""
    return sum(map(_aligned, block_lengths(B, T, n, vocab_size, tree=shares).values()))


class PassUploads:
    """Fills the array `passes` of the arena; passes that are the same list as before are there already."""

    def __init__(self, device: Device, arena: Mapping[str, Array], *, vocab_size: int, shares: bool) -> None:
        """Take the arena, with the positions that are counted in every row and their inverse unless all of them are.

        `shares`: passes may be trees.
        """
        self._device, self._passes, self._vocab_size, self._shares = device, arena["passes"], vocab_size, shares
        self._counted, self._slots = arena.get("counted"), arena.get("slots")
        self._known: list[Pass] | None = None  # that come again, with their values and their arrays
        self._staged: list[tuple[np.ndarray, DevicePass]] = []
        self._resident = False  # whether it is these that the array holds

    def upload(self, passes: list[Pass], *, repeats: bool) -> list[DevicePass]:
        """Queue the copies of all passes, one behind the other.

        `repeats`: they will come again, as the same list. Otherwise trees are padded so that few of them differ in
        shape: by nodes that nothing looks at and logits that are compared with nothing.
        """
        known = passes is self._known
        staged = self._staged if known else self._stage_all(passes, pads=not repeats)
        if not (known and self._resident):
            for values, of in staged:
                begin, end = of.place
                self._device.upload(self._passes[begin:end], values)
        if repeats:
            self._known, self._staged = passes, staged
        self._resident = repeats
        return [of for _, of in staged]

    def upload_tokens(self, tokens: np.ndarray) -> DevicePass:
        """Queue a copy of `tokens` (B, T) int, which nothing is counted in; return the pass over them."""
        B, T = tokens.shape
        self._resident = False
        target = self._passes[: B * T]
        self._device.upload(target, np.ascontiguousarray(tokens.reshape(-1), dtype=np.int32))
        return DevicePass(B=B, T=T, arrays={"tokens": target})

    def _stage_all(self, passes: list[Pass], *, pads: bool) -> list[tuple[np.ndarray, DevicePass]]:
        """Return the values of each pass's block, and its arrays."""
        sizes = [self._size(each) for each in passes]
        found: dict[int, dict[str, np.ndarray]] = {}
        for size in set(sizes):
            trees = {i: each for i, each in enumerate(passes) if isinstance(each, PrefixTree) and sizes[i] == size}
            arrays = tree_arrays(list(trees.values()), *size, self._vocab_size, pads=pads)
            found |= dict(zip(trees, arrays, strict=True))
        staged, first = [], 0
        for i, each in enumerate(passes):
            if not isinstance(each, PrefixTree):
                order, segments = group_rows(each.tokens, self._vocab_size)
                found[i] = {"tokens": each.tokens.ravel(), "order": order, "segments": segments}
                found[i]["targets"] = each.targets.ravel()
            staged.append(self._stage(each, found[i], sizes[i], first))
            first += block_size(*sizes[i], self._vocab_size, shares=self._shares)
        return staged

    def _size(self, each: Pass) -> tuple[int, int, int]:
        """Return how many sequences a pass is over, how many positions they have and how many of these are counted."""
        T = each.path.shape[1] if isinstance(each, PrefixTree) else each.tokens.shape[1]
        n = T if self._counted is None else len(self._counted)
        return each.n_counted // n, T, n

    def _stage(
        self, each: Pass, found: dict[str, np.ndarray], size: tuple[int, int, int], first: int
    ) -> tuple[np.ndarray, DevicePass]:
        """Return the values of the pass's block, which begins at `first`, and its arrays there."""
        tree, (B, T, n) = isinstance(each, PrefixTree), size
        lengths = block_lengths(B, T, n, self._vocab_size, tree=tree)
        values = np.full(sum(map(_aligned, lengths.values())), _UNUSED, dtype=np.int32)
        block = self._passes[first : first + len(values)]
        assert len(block) == len(values), f"passes of {first + len(values)} int32, planned for {len(self._passes)}"
        arrays, begin = {}, 0
        for name, length in lengths.items():
            end = begin + found[name].size
            assert end - begin <= length, f"{name}: {end - begin} values, room for {length}"
            values[begin:end] = found[name].ravel()
            arrays[name] = block[begin:end].reshape(found[name].shape)
            begin += _aligned(length)
        counted, slots = self._counted, self._slots
        if counted is not None and slots is not None:
            counted, slots = (arrays["counted"], arrays["slots"]) if tree else (counted, slots[:T])
        return values, DevicePass(
            B=1 if tree else B,
            T=len(arrays["tokens"]) if tree else T,
            arrays=arrays,
            n_logits=len(arrays["counted" if tree else "targets"]),
            counted=counted,
            slots=slots,
            trims_last=each.trims_last,
            place=(first, first + len(values)),
        )


def tree_arrays(
    trees: list[PrefixTree], B: int, T: int, n: int, vocab_size: int, *, pads: bool
) -> list[dict[str, np.ndarray]]:
    """Return what passes over `trees`, each of B sequences of T positions, n of them counted, upload: int32 arrays.

    Where `pads`, all get the same shape, one of few. A padding node has token and position 0 and sees itself; a padding
    row of logits belongs to one and has no targets.
    """
    if not pads:
        return [_tree_arrays(tree, tree.n_nodes, len(tree.counted), B * n, vocab_size) for tree in trees]
    if not trees:
        return []
    # No tree has more than B nodes at a position, so there is room for these nodes wherever there is for these logits.
    logits = min(_on_grid(max(len(tree.counted) for tree in trees)), B * n)
    nodes = min(_on_grid(max(tree.n_nodes - len(tree.counted) for tree in trees) + logits), B * T)
    found = [_tree_arrays(tree, nodes, logits, B * n, vocab_size) for tree in trees]
    lengths = block_lengths(B, T, n, vocab_size, tree=True)
    for name in ("items", "sums", "counted_items", "counted_sums"):
        longest, columns = max(len(arrays[name]) for arrays in found), found[0][name].shape[1]
        one_each = nodes if columns == _ITEM_COLUMNS and longest else 0  # what is beyond changes little
        length = min(one_each + _on_grid(longest - one_each), lengths[name] // columns)
        for arrays in found:
            missing = np.full((length - len(arrays[name]), columns), _UNUSED, dtype=np.int32)
            arrays[name] = np.concatenate([arrays[name], missing])
    return found


def _tree_arrays(tree: PrefixTree, nodes: int, logits: int, most_pairs: int, vocab_size: int) -> dict[str, np.ndarray]:
    """Return the arrays of one tree with so many nodes and logits, its own and padding."""
    n, m, T = tree.n_nodes, len(tree.counted), tree.path.shape[1]
    extra = np.arange(n, nodes, dtype=np.int32)
    counted = np.concatenate([tree.counted, extra[: logits - m]])
    ends = np.concatenate([tree.ends, extra + 1])
    items, sums = key_work(ends)
    # Where nothing is trimmed every node is a query in all layers.
    counted_items, counted_sums = key_work(ends, counted) if tree.trims_last else (items[:0], sums[:0])
    order, segments = group_rows(tree.tokens, vocab_size)
    position_order, position_segments = group_rows(tree.positions, T)
    return {
        "tokens": _extended(tree.tokens, nodes, 0),
        "order": _extended(order, nodes, _UNUSED),
        "segments": _extended(segments, segments_size(nodes, vocab_size), n),
        "positions": _extended(tree.positions, nodes, 0),
        "position_order": _extended(position_order, nodes, _UNUSED),
        "position_segments": _extended(position_segments, segments_size(nodes, T), n),
        "path": np.concatenate([tree.path, np.repeat(extra[:, None], T, axis=1)]),
        "counted": counted,
        "slots": slots_of(counted, nodes),
        "pair_begins": _extended(tree.pair_begins, logits + 1, len(tree.targets)),
        "targets": _extended(tree.targets, most_pairs, _UNUSED),
        "counts": _extended(tree.counts, most_pairs, _UNUSED),
        "items": items,
        "sums": sums,
        "counted_items": counted_items,
        "counted_sums": counted_sums,
    }


def _extended(values: np.ndarray, length: int, fill: int) -> np.ndarray:
    """Return `values` with `fill` behind them, (length,) int32."""
    found = np.full(length, fill, dtype=np.int32)
    found[: len(values)] = values
    return found


def _on_grid(size: int) -> int:
    """Return the next size of the grid: at most a sixteenth more, or _SMALLEST_STEP."""
    step = max(_SMALLEST_STEP, 2 ** (size.bit_length() - 1) // _GRID_STEPS)
    return -(-size // step) * step


def _aligned(length: int) -> int:
    return -(-length // _ALIGNMENT) * _ALIGNMENT
