"""data=pydocs: the language reference inside the standard library, about 465,000 characters of English."""

import hashlib

from gpt2lab.data.download import Progress
from gpt2lab.data.sources.base import Source
from gpt2lab.data.sources.corpus import corpus, with_text
from gpt2lab.schema import DataConfig


def _read(source: Source, config: DataConfig, report_progress: Progress | None) -> Source:
    from pydoc_data.topics import topics  # half a megabyte of source that only this corpus needs

    # Its wording differs between Python versions; the recorded hash tells them apart.
    text = "\n".join(topics[name] for name in sorted(topics)).encode()
    return with_text(source, text, {"pydoc_data.topics": hashlib.sha256(text).hexdigest()})


PYDOCS = corpus("pydocs", _read)
