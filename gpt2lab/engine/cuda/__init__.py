"""The CUDA core: our own kernels and library products, on a card or, for proofs, on a processor.

No names here: `plan.py` is used without the rest.
"""
