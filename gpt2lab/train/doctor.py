"""What this machine offers to a run."""

import importlib.util
import platform
import shutil
from dataclasses import dataclass

from gpt2lab.data import data_dir
from gpt2lab.data.tokenizers import GPT2_FILES, find_gpt2_file
from gpt2lab.engine import find_devices
from gpt2lab.record.tracker import has_key


@dataclass(frozen=True, slots=True)
class SystemCheck:
    """One line of the examination; `ok` is False for what is missing but not needed for the default run."""

    name: str
    ok: bool
    text: str


def examine() -> list[SystemCheck]:
    """Look at Python, devices, tokenizers, W&B and disk; nothing is downloaded."""
    checks = [SystemCheck("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}")]
    checks += [SystemCheck(device.name, device.available, device.text) for device in find_devices()]
    checks.append(_gpt2_tokenizer())
    has_hf = importlib.util.find_spec("transformers") is not None
    checks.append(SystemCheck("transformers", has_hf, "found" if has_hf else "not found: pip install 'gpt2lab[hf]'"))
    key = has_key()
    checks.append(SystemCheck("W&B key", key, "found" if key else "none: runs are tracked offline (wandb login)"))
    git = shutil.which("git")
    checks.append(SystemCheck("git", bool(git), git or "not found: provenance will have no commit"))
    free = shutil.disk_usage(".").free / 2**30
    checks.append(SystemCheck("disk", free > 5, f"{free:.1f} GiB free here; data goes to {data_dir()}"))
    return checks


def _gpt2_tokenizer() -> SystemCheck:
    missing = [name for name in GPT2_FILES if find_gpt2_file(name) is None]
    text = f"{' and '.join(missing)} not found: downloaded at first use, or pip install 'gpt2lab[offline]'"
    return SystemCheck("gpt2 tokenizer", not missing, text if missing else "found")
