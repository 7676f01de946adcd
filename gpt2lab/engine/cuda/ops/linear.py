"""A linear layer y = x @ weight^T + bias, alone or with GELU: products by Gemm, the rest by epilogues or kernels.

A banded layer is the same one over other products (banded_linear.py).

Where the library can add the bias, or apply GELU or its derivative, before it stores a product, the activation is not
read and written once more.
"""

import math

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.gemm import Epilogue, EpilogueKind, Products
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.engine.cuda.ops.bias import Bias
from gpt2lab.engine.cuda.ops.gelu import Gelu


class Linear:
    """A layer from K values to N: weight (N,K) act_t, bias (N) float; gradients of both are float.

    What is (rows,N) may be wider: the layer's columns then begin at `first_column`, the others are left alone.

    `bias_act` is the bias as act_t, which an epilogue takes: in bf16 the copy beside the weights' copy, otherwise the
    bias itself. None means that the kernels are to be used.
    """

    def __init__(self, device: Device, numerics: Numerics, gemm: Products, *, n_in: int, n_out: int) -> None:
        self._gemm, self._n_out = gemm, n_out
        # In the flat buffer of parameters a tensor begins at a multiple of n_embd, which divides both widths.
        step = math.gcd(n_in, n_out)
        self._bias = Bias(device, numerics, n=n_out, aligned_to=step)
        self._gelu_in, self._gelu_out = (Gelu(device, numerics, n=n, aligned_to=step) for n in (n_in, n_out))

    def forward(
        self, *, out: Array, x: Array, weight: Array, bias: Array, bias_act: Array | None, first_column: int = 0
    ) -> None:
        """out (rows,N) = x (rows,K) @ weight^T + bias; out and x are act_t."""
        columns = self._columns(out, first_column)
        epilogue = None if bias_act is None else Epilogue(kind=EpilogueKind.bias, bias=bias_act)
        if epilogue is None or not self._gemm.matmul(columns, x, weight, epilogue, transpose_b=True):
            self._gemm.matmul(columns, x, weight, transpose_b=True)
            self._bias.forward(x=out, bias=bias, first_column=first_column)

    def forward_gelu(
        self, *, out: Array, pre: Array, x: Array, weight: Array, bias: Array, bias_act: Array | None
    ) -> None:
        """pre (rows,N) = x (rows,K) @ weight^T + bias; out (rows,N) = gelu(pre); all act_t."""
        epilogue = None if bias_act is None else Epilogue(kind=EpilogueKind.bias_gelu, bias=bias_act, aux=pre)
        if epilogue is None or not self._gemm.matmul(out, x, weight, epilogue, transpose_b=True):
            self._gemm.matmul(pre, x, weight, transpose_b=True)
            self._gelu_out.forward(out=out, pre=pre, bias=bias)

    def backward_input(
        self,
        *,
        dx: Array,
        dy: Array,
        weight: Array,
        pre: Array | None = None,
        first_column: int = 0,
        accumulate: bool = False,
    ) -> None:
        """dx (rows,K) = dy (rows,N) @ weight, times gelu'(pre (rows,K)) when x was gelu(pre); all act_t.

        `accumulate`, without `pre` only, adds to dx.
        """
        dy = self._columns(dy, first_column)
        assert pre is None or not accumulate, "a gradient through gelu cannot be added to another"
        epilogue = None if pre is None else Epilogue(kind=EpilogueKind.dgelu, aux=pre)
        if not self._gemm.matmul(dx, dy, weight, epilogue, accumulate=accumulate):
            self._gemm.matmul(dx, dy, weight)
            self._gelu_in.backward(gradient=dx, pre=pre)

    def backward_weight(
        self, *, dweight: Array, dbias: Array, dy: Array, x: Array, partials: Array, first_column: int = 0
    ) -> None:
        """dweight (N,K) += dy^T @ x, dbias (N) += sum over rows of dy; `partials` as for Bias."""
        columns = self._columns(dy, first_column)
        self._gemm.matmul(dweight, columns, x, transpose_a=True, accumulate=True)
        self._bias.backward(dbias=dbias, dy=dy, partials=partials, first_column=first_column)

    def _columns(self, x: Array, first: int) -> Array:
        """Return the layer's columns of x (rows, >= N)."""
        return x if x.shape[1] == self._n_out else x[:, first : first + self._n_out]
