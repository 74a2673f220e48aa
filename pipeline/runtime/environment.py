"""Environment of processes that compute: threads of numeric libraries, memory, silence.

In: a number of threads.  Out: variables, to be set before torch or numpy is imported.
"""

from __future__ import annotations

import os
from pathlib import Path

MEMORY = {"THP_MEM_ALLOC_ENABLE": "1"}
"""torch asks for huge pages: large tensors cost fewer page faults. Read at its first tensor."""

_PINNED = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def worker_environment(threads: int, root: Path | None = None) -> dict[str, str]:
    """Environment of every worker process: numeric libraries keep to `threads` threads, and stay silent."""
    environment = dict.fromkeys(_PINNED, str(threads))
    environment |= {
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        **MEMORY,
    }
    if root is not None:
        # Nothing is installed as a package: the workers import `pipeline` from the same checkout.
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    return environment
