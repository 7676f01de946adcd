"""The last layer where few rows are counted: keys and values of all rows, everything else of the counted ones.

Nothing looks at the last layer's output elsewhere. Shapes: rows of one pass, m of them counted, C channels; `a` holds
the arrays of the pass cut to its rows, `c` the same arrays cut to m.
"""

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.gemm import Gemm
from gpt2lab.engine.cuda.layer import Arrays, Layer
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.engine.cuda.ops.linear import Linear
from gpt2lab.engine.cuda.ops.positions import Positions
from gpt2lab.engine.cuda.passes import DevicePass
from gpt2lab.model.params import GPTConfig


class LastLayer:
    """Layer L - 1 of a pass that `trims_last`, out of the operations of `layer`."""

    def __init__(
        self, device: Device, gemm: Gemm, numerics: Numerics, config: GPTConfig, layer: Layer, positions: Positions
    ) -> None:
        C = config.n_embd
        self._device, self._layer, self._positions = device, layer, positions
        self._i, self._C = config.n_layer - 1, C
        self._q = Linear(device, numerics, gemm, n_in=C, n_out=C)
        self._kv = Linear(device, numerics, gemm, n_in=C, n_out=2 * C)

    def forward(self, a: Arrays, c: Arrays, x: Array, of: DevicePass) -> None:
        """Queue the layer on the residual x (rows, C), whose norm is in ln1; leave the first m rows of lnf."""
        i, C, p, w = self._i, self._C, self._layer.p, self._layer.w
        qkv, ln1, q = a["qkv"][i], c["ln1_counted"], c["q_counted"]
        bias, bias_act = p["qkvb"][i], w["qkvb"][i]
        self._kv.forward(
            out=qkv, x=a["ln1"][i], weight=w["qkvw"][i][C:], bias=bias[C:], bias_act=bias_act[C:], first_column=C
        )
        self._gather(ln1, a["ln1"][i], of)
        self._q.forward(out=q, x=ln1, weight=w["qkvw"][i][:C], bias=bias[:C], bias_act=bias_act[:C])
        self._layer.attention.forward(of, out=c["atty"][i], lse=c["lse"][i], q=q, qkv=qkv)
        residual = c["residual3"][i]  # free until the layer's last addition
        self._gather(residual, x, of)
        self._layer.forward_after_attention(c, i, residual)

    def backward(self, a: Arrays, c: Arrays, of: DevicePass, *, x: Array) -> None:
        """Queue the gradients of the layer and of the final norm, whose output's (m, C) is in dnarrow.

        dresidual becomes that of the residual x (rows, C) which the layer was given.
        """
        i, C, g, w, partials = self._i, self._C, self._layer.g, self._layer.w, self._layer.partials
        dresidual = c["lnf"]  # free since the gradient of the output layer is there
        self._device.fill_zero(dresidual)
        self._layer.norm_backward(c, "lnf", x=c["residual3"][i], dresidual=dresidual)
        self._layer.backward_after_attention(c, i, dresidual=dresidual)

        qkv, q = a["qkv"][i], c["q_counted"]
        wide = a["dwide"].reshape(-1)  # 4C of each row: 3C for dqkv, of which a third stays empty, C for dq
        dqkv, dq = wide[: qkv.size].reshape(qkv.shape), wide[qkv.size :][: q.size].reshape(q.shape)
        self._layer.attention.backward(
            of, dq=dq, dqkv=dqkv, dout=c["dnarrow"], out=c["atty"][i], lse=c["lse"][i], q=q, qkv=qkv
        )
        dweight, dbias = g["qkvw"][i], g["qkvb"][i]
        self._kv.backward_weight(
            dweight=dweight[C:], dbias=dbias[C:], dy=dqkv, x=a["ln1"][i], partials=partials, first_column=C
        )
        self._q.backward_weight(dweight=dweight[:C], dbias=dbias[:C], dy=dq, x=c["ln1_counted"], partials=partials)
        dln1 = q  # attention was the last to read it
        self._q.backward_input(dx=dln1, dy=dq, weight=w["qkvw"][i][:C])
        self._scatter(a["dnarrow"], dln1, of)
        self._kv.backward_input(dx=a["dnarrow"], dy=dqkv, weight=w["qkvw"][i][C:], first_column=C, accumulate=True)
        self._scatter(a["dresidual"], dresidual, of)
        self._layer.norm_backward(a, "ln1", i, x=x, dresidual=a["dresidual"])

    def _gather(self, out: Array, x: Array, of: DevicePass) -> None:
        """Queue out (m, C) = the counted rows of x (rows, C)."""
        self._positions.gather_forward(
            out=out.reshape(of.B, -1, self._C), x=x.reshape(of.B, of.T, -1), counted=of.counted
        )

    def _scatter(self, dx: Array, dout: Array, of: DevicePass) -> None:
        """Queue dx (rows, C) = dout (m, C) at the counted rows, 0 elsewhere."""
        self._positions.gather_backward(
            dx=dx.reshape(of.B, of.T, -1), dout=dout.reshape(of.B, -1, self._C), slots=of.slots
        )
