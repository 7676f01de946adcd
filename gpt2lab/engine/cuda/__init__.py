"""The CUDA core: our own kernels and library products, on a card or, for proofs, on a processor."""

from gpt2lab.engine.cuda.engine import CudaEngine

__all__ = ["CudaEngine"]
