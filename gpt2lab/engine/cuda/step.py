"""One training step of the CUDA core, in the order in which it runs: forward, backward, update.

Every line queues one operation; nothing is allocated and nothing is read back, so that the whole step can be recorded
once as a CUDA graph and replayed. Shapes: rows = B*T positions of one pass, or its nodes, n_logits of them counted, C
channels, L layers; matrices are (out, in). GPT-2 with pre-norm blocks (Radford et al., 2019), its gradients by hand as
in llm.c.
"""

from collections.abc import Mapping, Sequence

from gpt2lab.engine.cuda.device import Array, Device
from gpt2lab.engine.cuda.gemm import Gemm
from gpt2lab.engine.cuda.last_layer import LastLayer
from gpt2lab.engine.cuda.layer import Layer
from gpt2lab.engine.cuda.memory import BY_COUNTED, BY_LAYER, BY_ROW
from gpt2lab.engine.cuda.numerics import Numerics
from gpt2lab.engine.cuda.ops.adamw import AdamW
from gpt2lab.engine.cuda.ops.cross_entropy import CrossEntropy
from gpt2lab.engine.cuda.ops.embedding import Embedding
from gpt2lab.engine.cuda.ops.grad_norm import GradNorm
from gpt2lab.engine.cuda.ops.positions import Positions
from gpt2lab.engine.cuda.ops.tensor_table import tensor_table
from gpt2lab.engine.cuda.passes import DevicePass
from gpt2lab.model.band_tiles import ProductTiles
from gpt2lab.model.params import GPTConfig
from gpt2lab.schema import OptimConfig

# Arrays of a pass: what logits are compared with, and rows in groups of one token or one position.
TARGETS = ("targets", "pair_begins", "counts")
GROUPS = ("tokens", "order", "segments", "positions", "position_order", "position_segments")


class Step:
    """The operations of one model over the arrays of one arena (named as in `memory.py`)."""

    def __init__(
        self,
        device: Device,
        gemm: Gemm,
        numerics: Numerics,
        config: GPTConfig,
        optim: OptimConfig,
        arena: Mapping[str, Array],
        mlp_tiles: ProductTiles,
    ) -> None:
        C = config.n_embd
        self._device, self._gemm, self._config, self._arena = device, gemm, config, arena
        self._embedding = Embedding(device, numerics, n_embd=C)
        self._positions = Positions(device, numerics, n_embd=C)
        self._loss = CrossEntropy(
            device, numerics, vocab_size=config.vocab_size, padded_vocab_size=config.padded_vocab_size
        )
        table = tensor_table(config, optim.decay)
        device.upload(arena["tensors"], table)
        self._grad_norm = GradNorm(device, numerics, n_embd=C, table=table)
        self._adamw = AdamW(device, numerics, n_embd=C, table=table, optim=optim)
        self._grad_clip = optim.grad_clip
        self._layer = Layer(device, gemm, numerics, config, arena, mlp_tiles)
        self._p, self._w, self._g = self._layer.p, self._layer.w, self._layer.g
        self._last_layer = LastLayer(device, gemm, numerics, config, self._layer, self._positions)
        self._passes: dict[int, dict[str, Array]] = {}

    def update(self, passes: Sequence[DevicePass], *, n_counted: int) -> None:
        """Queue one whole update from what was uploaded: the passes of a batch and the schedule."""
        self.gradients(passes, n_counted=n_counted)
        # Several processes would add up arena["gradients"] here.
        a = self._arena
        shared = {"stats": a["stats"], "flag": a["diverged_at"], "grads": a["gradients"], "tensors": a["tensors"]}
        norm = {name: a[name] for name in ("failure", "update", "partials")}
        self._grad_norm.launch(**shared, **norm, clip=self._grad_clip)
        written = {"params": a["parameters"], "m": a["first moments"], "v": a["second moments"]}
        self._adamw.launch(**shared, **written, weights=a.get("weights"), schedule=a["schedule"])

    def gradients(self, passes: Sequence[DevicePass], *, n_counted: int) -> None:
        """Queue the gradient of the mean loss over the n_counted targets of all passes, and that loss."""
        self._device.fill_zero(self._arena["gradients"])
        self._device.fill_zero(self._arena["stats"])
        for of in passes:
            self.forward(of)
            self._loss_and_its_gradient(of, scale=1 / n_counted)
            self._backward(of)

    def forward(self, of: DevicePass) -> None:
        """Queue all layers; the final norm's output is left in `lnf` (rows, C), or (n_logits, C) if `trims_last`."""
        a, p, L = self._pass(of.rows), self._p, self._config.n_layer
        x = a["encoded"]
        rows = of.named("tokens", "positions")
        self._embedding.forward(x=x.reshape(of.B, of.T, -1), wte=p["wte"], wpe=p["wpe"], **rows)
        self._layer.norm_forward(a, "ln1", 0, x=x)
        for i in range(L):
            if of.trims_last and i == L - 1:
                self._last_layer.forward(a, self._pass(of.n_logits), x, of)
            else:
                self._layer.forward(a, i, x, of)
            x = a["residual3"][i]

    def logits_of(self, x: Array) -> Array:
        """Queue logits (n, Vp) = x (n, C) @ wte^T into the arena, and return them."""
        logits = self._arena["logits"][: len(x)]
        self._gemm.matmul(logits, x, self._w["wte"], transpose_b=True)
        return logits

    def at_positions(self, out: Array, positions: Array, *, B: int, T: int) -> Array:
        """Queue out (B*n, C) = the final norm's output at `positions` (n,) int32 of every sequence; return `out`."""
        x = self._arena["lnf"][: B * T].reshape(B, T, -1)
        self._positions.gather_forward(out=out.reshape(B, len(positions), -1), x=x, counted=positions)
        return out

    def evaluate(self, of: DevicePass) -> None:
        """Queue `losses` (nats) and `correct` of the rows of logits (n_logits,) after `forward`."""
        logits = self.logits_of(self._counted_rows(of))
        losses, correct = (self._arena[name][: of.n_logits] for name in ("losses", "correct"))
        self._loss.forward(losses=losses, correct=correct, logits=logits, **of.named(*TARGETS))

    def _counted_rows(self, of: DevicePass) -> Array:
        """Return the final norm's output where something is counted (n_logits, C): where everything is, `lnf`."""
        if of.counted is None or of.trims_last:
            return self._arena["lnf"][: of.n_logits]
        return self.at_positions(self._arena["lnf_counted"][: of.n_logits], of.counted, B=of.B, T=of.T)

    def _loss_and_its_gradient(self, of: DevicePass, *, scale: float) -> None:
        """Queue stats[0] += the scaled losses, the gradient of wte as output layer, and that of `lnf` into dnarrow."""
        n, arena = of.n_logits, self._arena
        x = self._counted_rows(of)
        logits, losses = self.logits_of(x), arena["losses"][:n]
        self._loss.backward(losses=losses, logits=logits, **of.named(*TARGETS), scale=scale)  # now their gradient
        self._loss.add_losses(stats=arena["stats"], losses=losses, scale=scale)
        self._gemm.matmul(self._g["wte"], logits, x, transpose_a=True, accumulate=True)
        if of.counted is None or of.trims_last:
            self._gemm.matmul(arena["dnarrow"][:n], logits, self._w["wte"])
            return
        dcounted = arena["dwide"].reshape(-1)[: x.size].reshape(x.shape)
        self._gemm.matmul(dcounted, logits, self._w["wte"])
        dlnf, dout = arena["dnarrow"][: of.rows].reshape(of.B, of.T, -1), dcounted.reshape(of.B, n // of.B, -1)
        self._positions.gather_backward(dx=dlnf, dout=dout, slots=of.slots)

    def _backward(self, of: DevicePass) -> None:
        """Queue the gradients of everything below `lnf`, whose gradient is in dnarrow."""
        a, g, L = self._pass(of.rows), self._g, self._config.n_layer
        residuals = [a["encoded"], *(a["residual3"][i] for i in range(L))]
        if of.trims_last:
            self._last_layer.backward(a, self._pass(of.n_logits), of, x=residuals[L - 1])
        else:
            self._device.fill_zero(a["dresidual"])
            self._layer.norm_backward(a, "lnf", x=residuals[L], dresidual=a["dresidual"])
        for i in reversed(range(L - 1 if of.trims_last else L)):
            self._layer.backward(a, i, of, x=residuals[i])
        dx = a["dresidual"].reshape(of.B, of.T, -1)
        self._embedding.backward(dwte=g["wte"], dwpe=g["wpe"], dx=dx, **of.named(*GROUPS))

    def _pass(self, rows: int) -> dict[str, Array]:
        """Return the activations and their gradients, cut to the rows of this pass; L stays in front where it is."""
        if rows not in self._passes:
            by_layer = {name: self._arena[name][:, :rows] for name in BY_LAYER}
            by_row = {name: self._arena[name][:rows] for name in (*BY_ROW, *BY_COUNTED) if name in self._arena}
            self._passes[rows] = by_layer | by_row
        return self._passes[rows]
