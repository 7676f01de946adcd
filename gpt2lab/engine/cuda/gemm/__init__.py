"""Matrix products of the CUDA core: one interface, by cuBLAS on a card and by numpy on the host."""

from gpt2lab.engine.cuda.gemm.base import Epilogue, EpilogueKind, Gemm, Products
from gpt2lab.engine.cuda.gemm.create import create_gemm
