"""The command line, whose clients begin no round from HELD_ROUND on until the file HELD_GATE is there.

Also those of the processes that a command starts, since these import this file again. It takes Ctrl-C also if the tests
run in the background, where shells have it ignored.
"""

import os
import signal
import sys
from pathlib import Path

if __name__ in ("__main__", "__mp_main__"):
    sys.path.insert(0, str(Path(__file__).parent))
    from process import hold

    signal.signal(signal.SIGINT, signal.default_int_handler)
    hold(int(os.environ["HELD_ROUND"]), os.environ["HELD_GATE"])

if __name__ == "__main__":
    from splitcom.cli import main

    main()
