"""Memory, copies, launches and graphs of the CUDA core: one interface, for a card and for the host."""

from gpt2lab.engine.cuda.device.base import Array, Device, LaunchSize, Module
from gpt2lab.engine.cuda.device.create import open_device
