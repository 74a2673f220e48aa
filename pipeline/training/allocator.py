"""Memory that one step frees is there for the next: glibc's allocator for a process that trains on a CPU.

In: nothing.  Out: nothing; the process keeps what it frees. By default glibc gives tensors of 32 MiB and more back to
the kernel at once and takes fresh pages, zeroed one by one, for the same tensors a moment later: a hypernetwork's
gradients and the LLM's logits in every step. Between steps the same sizes come again, so keeping them costs no more
than the peak that a step needs anyway (docs/meta_training.md has what it brings).
"""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Numbers of `mallopt` in glibc's malloc.h."""
_MOST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep what is freed from now on, for this process; whether its C library knows how.

    An allocator that the environment sets up by glibc's own variables is left as it is.
    """
    if any(name in os.environ for name in ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl, macOS
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _MOST))
