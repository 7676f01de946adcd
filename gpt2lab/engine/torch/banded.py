"""A linear layer between channels and hidden units that trains and multiplies what its band keeps, and little else.

The trained weight is the band alone: row c holds the weights between channel c and the hidden units 4c - w//2 to
4c + w//2, so that gradients, moments, norms and updates are of that size too. Products go over tiles of neighbouring
hidden units, each with the window of channels that it needs (`model/band_tiles.py`), straight on the activations.

For the products each row of the band is followed by zeros. In that buffer weight (c, h) lies at c * stride + h + w//2,
with stride = row length - 4, because the band moves by 4 hidden units per channel. So every tile with its window is an
ordinary matrix in place; what it holds outside the band lies in the zeros. A gradient is written the same way: what is
not of the band falls between the rows and is left behind with them.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from gpt2lab.model.band_tiles import BandBlock, channel_blocks, hidden_blocks


@dataclass(frozen=True, slots=True)
class Cut:
    """How the products of one band are cut. Buffers of padded rows are (C, 2 * half_band + 4 + tile)."""

    half_band: int
    tile: int  # hidden units of a product
    hidden: list[BandBlock]  # tiles of hidden units, windows of channels
    channels: list[BandBlock]  # tiles of channels, windows of hidden units

    def part(self, buffer: Tensor, block: BandBlock) -> Tensor:
        """Return the (channels, hidden) matrix of `block` within a buffer of padded rows, as a view."""
        c, h, stride = block.channels, block.hidden, 2 * self.half_band + self.tile
        offset = c.start * stride + h.start + self.half_band
        return buffer.as_strided((c.stop - c.start, h.stop - h.start), (stride, 1), offset)


def cut_band(n_embd: int, band: int, tile: int) -> Cut:
    """Return how products of a band are cut into tiles of `tile` hidden units."""
    half_band = min(band // 2, 4 * n_embd - 1)  # nothing is farther away than that
    return Cut(
        half_band,
        tile,
        hidden_blocks(n_embd, 2 * half_band, tile, clipped=True),
        channel_blocks(n_embd, 2 * half_band, max(tile // 4, 1), clipped=True),
    )


class BandedLinear(nn.Module):
    """FC1 (`widens`: C channels to F = 4C hidden units) or FC2 (F to C) with a band of full width `band` > 0."""

    def __init__(self, n_embd: int, band: int, tile: int, *, widens: bool) -> None:
        super().__init__()
        self.n_embd, self.widens, self.cut = n_embd, widens, cut_band(n_embd, band, tile)
        self.weight = nn.Parameter(torch.empty(n_embd, 2 * self.cut.half_band + 1))
        self.bias = nn.Parameter(torch.empty(4 * n_embd if widens else n_embd))

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., F) of (..., C), or the other way round; under autocast in its dtype, as `F.linear` does."""
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if torch.is_autocast_enabled(x.device.type) and weight.dtype == torch.float32:
            dtype = torch.get_autocast_dtype(x.device.type)
            x, weight, bias = x.to(dtype), weight.to(dtype), bias.to(dtype)
        rows = F.pad(weight, (0, self.cut.tile + 3))
        y: Tensor = BandedProduct.apply(x.reshape(-1, x.shape[-1]), rows, bias, self.cut, self.widens)
        return y.view(*x.shape[:-1], -1)

    def to_matrix(self, band: Tensor) -> Tensor:
        """Return values of the kept weights (C, 2 * half_band + 1) as FC1's (F, C) or FC2's (C, F), zeros elsewhere."""
        wide = band.new_zeros(self.n_embd, 4 * self.n_embd + 2 * self.cut.half_band)
        self._diagonals(wide).copy_(band)
        matrix = wide[:, self.cut.half_band : self.cut.half_band + 4 * self.n_embd]
        return matrix.T if self.widens else matrix

    def from_matrix(self, matrix: Tensor) -> Tensor:
        """Return the kept weights of FC1's (F, C) or FC2's (C, F) as (C, 2 * half_band + 1)."""
        rows = matrix.T if self.widens else matrix
        band = self._diagonals(F.pad(rows, (self.cut.half_band, self.cut.half_band)).contiguous()).contiguous()
        assert band.count_nonzero() == matrix.count_nonzero(), "weights outside the band that are not zero"
        return band

    def _diagonals(self, wide: Tensor) -> Tensor:
        """Return the band as a view of a (C, F) matrix with half a band of margin on both sides."""
        return wide.as_strided((self.n_embd, 2 * self.cut.half_band + 1), (wide.shape[1] + 4, 1))


class BandedProduct(torch.autograd.Function):
    """x (N, C) times the band (`widens`), or x (N, F) times the transposed one, plus a bias.

    The weight comes as padded rows, and so goes its gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, bias: Tensor, cut: Cut, widens: bool) -> Tensor:
        ctx.save_for_backward(x, rows)
        ctx.cut, ctx.widens = cut, widens
        return (_widen if widens else _narrow)(x, rows, bias, cut)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        x, rows = ctx.saved_tensors
        grad = grad.contiguous()
        back = _narrow if ctx.widens else _widen
        channels, hidden = (x, grad) if ctx.widens else (grad, x)
        grad_x = back(grad, rows, None, ctx.cut) if ctx.needs_input_grad[0] else None
        return grad_x, _weight_gradient(channels, hidden, rows, ctx.cut), grad.sum(0), None, None


def _widen(x: Tensor, rows: Tensor, bias: Tensor | None, cut: Cut) -> Tensor:
    """Return x (N, C) times the band, (N, F), plus bias (F)."""
    out = x.new_empty(len(x), 4 * len(rows))
    for block in cut.hidden:
        window, part, tile = x[:, block.channels], cut.part(rows, block), out[:, block.hidden]
        if bias is None:
            torch.mm(window, part, out=tile)
        else:
            torch.addmm(bias[block.hidden], window, part, out=tile)
    return out


def _narrow(x: Tensor, rows: Tensor, bias: Tensor | None, cut: Cut) -> Tensor:
    """Return x (N, F) times the transposed band, (N, C), plus bias (C)."""
    bias = x.new_zeros(len(rows)) if bias is None else bias
    if x.dtype.itemsize < 4:  # adding up tiles would round each sum; whole sums are rounded once, as in a dense product
        out = x.new_empty(len(x), len(rows))
        for block in cut.channels:
            part = cut.part(rows, block).T
            torch.addmm(bias[block.channels], x[:, block.hidden], part, out=out[:, block.channels])
        return out
    out = bias.repeat(len(x), 1)
    for block in cut.hidden:
        out[:, block.channels].addmm_(x[:, block.hidden], cut.part(rows, block).T)
    return out


def _weight_gradient(channels: Tensor, hidden: Tensor, rows: Tensor, cut: Cut) -> Tensor:
    """Return the sums over N of channels (N, C) times hidden (N, F) within the band, laid out as `rows`."""
    gradient = torch.empty_like(rows)
    clipped = cut.half_band // 4 + 1  # rows whose band reaches over an end: no product writes what is not there
    gradient[:clipped].zero_()
    gradient[-clipped:].zero_()
    for block in cut.hidden:
        torch.mm(channels[:, block.channels].T, hidden[:, block.hidden], out=cut.part(gradient, block))
    return gradient


def clear_outside_band(matrix: Tensor, band: int, *, widens: bool) -> None:
    """Set what `band` leaves out of FC1's (F, C) (`widens`) or FC2's (C, F) to zero, in place."""
    half_band, C = band // 2, min(matrix.shape)
    for residue in range(4):  # of hidden units h = 4q + residue: kept where |4(c - q) - residue| <= half_band
        last, first = (half_band + residue) // 4, -((half_band - residue) // 4)  # of c - q
        part = matrix.view(C, 4, C)[:, residue] if widens else matrix.view(C, C, 4)[:, :, residue].T
        part.tril_(last).triu_(first)
