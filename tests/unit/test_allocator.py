"""Freed memory goes back to the system."""

import platform
import subprocess
import sys

import pytest

# Where glibc has freed a block of 20 MB, it takes one of 8 MB from its heap and no more from the system.
BLOCKS = """
import ctypes, sys
from splitcom.allocator import return_freed_memory
class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd a b c d e".split()]
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
libc.mallinfo2.restype = Info
if sys.argv[1] == "yes":
    return_freed_memory()
libc.free(libc.malloc(20_000_000))
before = libc.mallinfo2().hblkhd
libc.malloc(8_000_000)
print(libc.mallinfo2().hblkhd - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is another")
@pytest.mark.parametrize("asked", ["yes", "no"])
def test_a_large_block_is_the_systems_own_if_it_is_asked_for(asked: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS, asked], check=True, stdout=subprocess.PIPE, text=True
    )
    assert (int(done.stdout) >= 8_000_000) == (asked == "yes")
