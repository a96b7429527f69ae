"""The command line in a process of its own, forked from one that has imported everything: a start takes no time.

Run by path (runpy) with `ARGUMENTS` and `LOG` set; what the process prints goes to LOG.
"""

import os
import sys

import torch

from splitcom.cli import main

if __name__ == "__main__":
    log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)  # noqa: F821
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.argv = ["splitcom", *ARGUMENTS]  # noqa: F821
    torch.set_num_threads(1)
    main()
