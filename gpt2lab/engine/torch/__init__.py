"""The PyTorch engine: the reference, and the default without a card of NVIDIA's.

No names here: `plan.py` is used without PyTorch, which takes a second to import.
"""
