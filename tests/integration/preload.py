"""What the processes of tests have imported and made once before they are forked; threads are none of it."""

import os

from splitcom.config import Config
from splitcom.methods import join, serve  # noqa: F401
from splitcom.parties.check import check_parts
from splitcom.report import plots, write_report  # noqa: F401

check_parts(
    Config()
)  # transformers and peft make tables at the first model, which takes longer than the model
os.fsync = lambda descriptor: None  # as in conftest.py
