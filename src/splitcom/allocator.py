"""What the C library does with memory that has been freed; knows no tensor."""

import ctypes
import sys

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
_THRESHOLD_BYTES = 1 << 20


def return_freed_memory() -> None:
    """Have large blocks go back to the system as soon as they are freed; does nothing where malloc is not glibc's.

    By itself glibc keeps blocks of up to 32 MiB once one as large has been freed, in pieces that later tensors do not
    fit: a client of Llama's 1 B shape peaks at 2.5 GB in place of 2.2 GB (`benchmarks/client_memory.py`).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _THRESHOLD_BYTES)
