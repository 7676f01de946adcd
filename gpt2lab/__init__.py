"""gpt2lab: experiment management for GPT-2-scale training."""

__version__ = "0.1.0"
