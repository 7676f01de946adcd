"""Reports computed from the record of a run; nothing here needs torch, the data or the engine."""

from gpt2lab.report.readme import write_report
from gpt2lab.report.summary import summarise

__all__ = ["summarise", "write_report"]
