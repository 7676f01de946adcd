"""The PyTorch engine: the reference, and the default without a card of NVIDIA's."""

from gpt2lab.engine.torch.engine import TorchEngine
from gpt2lab.engine.torch.model import GPT

__all__ = ["GPT", "TorchEngine"]
