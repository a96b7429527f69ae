"""The processes of one command, if its engine runs in several: how they are started, and which of them leads."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from splitcom.config import Config
from splitcom.engines.processes import are_several, follows, joined
from splitcom.engines.sharded import follow
from splitcom.errors import ConfigError, RunError
from splitcom.methods.run import configured
from splitcom.parties.parts import body_of
from splitcom.transports.address import checked


@dataclass(frozen=True)
class Machines:
    """How many run the engine, which of them this is, from 0, and where the first one is met (HOST:PORT)."""

    count: int = 1
    own: int = 0
    meet: str | None = None


@contextmanager
def together() -> Iterator[bool]:
    """Within it, this process leads those of the engine, or is alone: True.

    In a process that follows it is False, and everything has been done, to the end of the run.
    """
    if not are_several():
        yield True
        return
    with joined():
        if follows():
            follow(partial(body_of, for_engine=True))
        yield not follows()


def start_processes(config: Config, machines: Machines = Machines()) -> int | None:
    """Run this command in as many processes as its engine has on this machine, by torchrun; return the exit code.

    None if there are none to start: the engine has one process, or torchrun has started this one. Raises ConfigError
    if it is not told how many there are, or where; RunError if one of them is killed.
    """
    if config.engine.kind != "sharded" or are_several():
        if machines != Machines() and config.engine.kind != "sharded":
            raise ConfigError(
                f"--machines: engine.kind = {config.engine.kind!r} runs on one; set it to 'sharded'"
            )
        return None
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    count = configured(config).engine.processes or torch.cuda.device_count()
    if not count:
        raise ConfigError(
            "engine.processes: needed with engine.kind = 'sharded' on a machine without a CUDA device"
        )
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    arguments = parse_args(["-m", "splitcom", *sys.argv[1:]])  # type: ignore[no-untyped-call]
    vars(arguments).update(_place(machines), nproc_per_node=str(count))
    try:
        run(arguments)  # type: ignore[no-untyped-call]
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:  # it has said why itself
            return int(failure.exitcode)
        raise RunError(
            f"process {rank} of the engine was killed ({failure.signal_name()}); what was trained up to the last saved "
            "round is kept: start the same command again, with --resume"
        ) from error
    return 0


def _place(machines: Machines) -> dict[str, Any]:
    """What torchrun is told of the machines, by the names of its options."""
    if not 0 <= machines.own < machines.count:
        raise ConfigError(
            f"--machine {machines.own}: with --machines {machines.count} it is 0 to {machines.count - 1}"
        )
    if machines.count == 1:
        return {"standalone": True}
    if machines.meet is None:
        raise ConfigError(
            "--meet: needed with --machines: HOST:PORT, machine 0's address and a free port of it"
        )
    host, _, port = checked(machines.meet).rpartition(":")
    count, own = str(machines.count), machines.own
    return {"nnodes": count, "node_rank": own, "master_addr": host, "master_port": int(port)}
