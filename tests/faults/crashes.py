"""Runs whose parties are killed (kill -9) at drawn points and started again with the same commands.

    python -m tests.faults.crashes --points 72 --seed 1 --out crashes.jsonl

Every run must end with the bits of the undisturbed one and whole files. A line of the output is a run; those that are
there already are not done again. Where a party is killed:

    time         a drawn moment between the start of the processes and the end of the run
    frame        before, during or after a drawn piece of what goes over client-0's link, to the byte (a proxy holds it)
    checkpoint   before a drawn line of the code that saves a party's state
    writing      from outside, up to 3 ms after such a line, so also in the middle of a write
    aggregation  before a drawn line of the code that packs, unpacks and averages adapters
    record       before a drawn line of the code that writes the run folder, or what a client notes of a run
"""

import argparse
import json
import re
import shutil
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import wait
from pathlib import Path
from random import Random
from signal import SIGKILL
from typing import Any

import torch
from safetensors.torch import load_file

from splitcom.config import Config
from splitcom.methods.run import Run, train

from ..integration.parties import PATIENCE_S, Deployment, Party, fork_server, free_port, make_authority
from ..integration.tiny_model import write_tiny_model
from .proxy import Proxy

CODE = {
    "writing": r"training/store\.py:save",
    "checkpoint": r"training/store\.py:save|codecs/references/saved\.py:write",
    "aggregation": r"aggregation/aggregator\.py:|protocol/adapters\.py:",
    "record": r"metrics/record\.py:|models/adapter_folder\.py:export_adapter|methods/membership\.py:",
}
WHERE = (
    *(("time", victims) for victims in ("client", "server", "both")),
    *((f"frame {when}", victims) for when in ("before", "during", "after") for victims in ("client", "server", "both")),
    *((kind, victims) for kind in ("writing", "checkpoint", "record") for victims in ("client", "server", "both")),
    *(("aggregation", victims) for victims in ("client", "server", "both")),
)  # fmt: skip
CHANGES = {
    "model.device": "cpu",
    "federation.clients": 2,
    "data.samples": 15,
    "data.held_out_samples": 2,
    "training.rounds": 3,
    "training.batch_size": 4,
    "training.lr": 1e-2,
    "evaluation.generate": 0,
    "lora.dropout": 0.1,
    "flows.activation_up.codec": "temporal(0.9) > delta > int4 > zstd",
    "flows.gradient_down.codec": "delta > int8(rounding=stochastic)",
}
_SHARES = {"before": 0.0, "during": 0.5, "after": 1.0}
_CONVERSATION = 2  # client-0's second connection through its proxy; the first asks what the run is
_POLL_S = 0.05
_PATIENCE_S = 30  # of a client whose server is gone: it has to notice that nothing is left to do


@dataclass(frozen=True)
class Point:
    """Where parties are killed; `share` of the undisturbed run's extent, from 0 to 1."""

    kind: str
    victims: str
    share: float
    delay_s: float
    first_is_client: bool  # of both: in whose code
    references: str


def draw(seed: int, index: int) -> Point:
    """The same for the same arguments; every kind and victim comes up in turn."""
    random = Random(f"{seed}/{index}")
    kind, victims = WHERE[index % len(WHERE)]
    return Point(
        kind,
        victims,
        random.random(),
        random.uniform(1e-4, 3e-3) if kind == "writing" else 0.0,
        victims == "client" or (victims == "both" and random.random() < 0.5),
        random.choice(("memory", "file")),
    )


class Campaign:
    """What the runs share: certificates, the undisturbed run, and its extents."""

    def __init__(self, model: Path, folder: Path) -> None:
        self._forks = fork_server()
        self._folder = folder
        self._authority = make_authority(folder / "authority", CHANGES["federation.clients"])
        self._config = Config().override({**CHANGES, "model.source": str(model)})
        self._expected: dict[str, Run] = {}
        self._measure()

    def _undisturbed(self, store: str) -> Run:
        """The run in process, with references in memory or in files."""
        if store not in self._expected:
            folder = self._folder / f"in-process-{store}"
            self._expected[store] = train(self._with_references(store), folder)
        return self._expected[store]

    def _with_references(self, store: str) -> Config:
        return self._config.override({"references.store": store, "references.limit_mb": 1})

    def _measure(self) -> None:
        """Seconds, pieces over client-0's link, and lines of code of an undisturbed run."""
        started = time.monotonic()
        with self._parties("memory", "undisturbed") as (deployment, server, clients, proxy):
            trap = {"code": "|".join(CODE.values()), "line": 0, "delay_s": 0.0}
            server.start(trap=trap).wait_for("listening")
            for client in clients:
                client.start(trap=trap)
            for party in (server, *clients):
                party.end()
            self.seconds = time.monotonic() - started
            self.pieces = proxy.counts.chunks_of[_CONVERSATION]
            self.lines = {}
            for role, party in (("server", server), ("client", clients[0])):
                executed = json.loads(re.findall("executed (.*)", party.log)[-1])
                for kind, code in CODE.items():
                    lines = sum(count for where, count in executed.items() if re.search(code, where))
                    assert lines, f"{role}: no line of {code!r} is executed; has it moved?"
                    self.lines[kind, role] = lines
            deployment.assert_same_run(self._undisturbed("memory"))

    @contextmanager
    def _parties(self, store: str, name: str) -> Iterator[tuple[Deployment, Party, list[Party], Proxy]]:
        folder = self._folder / name
        folder.mkdir()
        port = free_port()
        deployment = Deployment(self._forks, self._authority, self._with_references(store), folder, port=port)
        with Proxy(("127.0.0.1", port)) as proxy:
            clients = [
                deployment.client(0, "--patience", _PATIENCE_S, address=f"localhost:{proxy.address[1]}"),
                deployment.client(1, "--patience", _PATIENCE_S),
            ]
            parties = (deployment.server, *clients)
            try:
                yield deployment, deployment.server, clients, proxy
            finally:
                for party in parties:
                    party.kill()
        shutil.rmtree(folder)

    def run(self, point: Point, name: str) -> dict[str, Any]:
        """Do a run; AssertionError where it does not end as the undisturbed one, with all that its parties said."""
        started = time.monotonic()
        with self._parties(point.references, name) as (deployment, server, clients, proxy):
            victims = {"client": [clients[0]], "server": [server], "both": [server, clients[0]]}[
                point.victims
            ]
            try:
                self._strike(point, victims, [server, *clients], proxy)
                struck = time.monotonic()
                was_running = all(party.process.exitcode == -SIGKILL for party in victims)
                leftovers = temporary(deployment.folder)
                proxy.reset_all()
                proxy.release()
                for party in victims:
                    party.start()
                for party in (server, *clients):
                    party.end()
                expected = self._undisturbed(point.references)
                result = deployment.assert_same_run(expected)
                assert_whole(deployment, result, expected)
            except BaseException as error:
                for party in (server, *clients):
                    error.add_note(party.log)
                raise
            return {
                "struck_s": round(struck - started, 2),
                "seconds": round(time.monotonic() - started, 2),
                "was_running": was_running,
                "was_writing": bool(leftovers),
                "left": len(temporary(deployment.folder)),
                "repeated_bytes": result["repeated_bytes"],
            }

    def _strike(self, point: Point, victims: list[Party], parties: list[Party], proxy: Proxy) -> None:
        """Start everybody and kill the victims; returns when they are dead."""
        first = victims[-1] if point.first_is_client else victims[0]
        trap = None
        if point.kind in CODE:
            extent = self.lines[point.kind, "client" if point.first_is_client else "server"]
            trap = {
                "code": CODE[point.kind],
                "line": 1 + int(point.share * extent),
                "delay_s": point.delay_s,
            }
        server, *clients = parties
        server.start(trap=trap if server is first else None)
        if point.kind.startswith("frame"):
            server.wait_for("listening")  # or client-0's connections would not be numbered as in other runs
            when = _SHARES[point.kind.removeprefix("frame ")]
            proxy.hold_at = (_CONVERSATION, 1 + int(point.share * self.pieces), when)
        for client in clients:
            client.start(trap=trap if client is first else None)
        if trap:
            wait([first.process.sentinel], PATIENCE_S)
            first.process.join()
            assert first.process.exitcode == -SIGKILL, "its trap did not catch it"
        elif point.kind == "time":
            time.sleep(point.share * self.seconds)
        else:
            # TCP may join pieces, so that one near the end does not come.
            while not proxy.held.wait(_POLL_S) and all(party.process.is_alive() for party in victims):
                pass
        for party in victims:
            party.kill()


def temporary(folder: Path) -> list[Path]:
    """What is being written, or was when its writer was killed."""
    return [path for path in folder.rglob(".*") if path.suffix in (".tmp", ".partial")]


def assert_whole(deployment: Deployment, result: dict[str, Any], expected: Run) -> None:
    """Every file can be read, every round is recorded once, and the ledger has counted each payload once."""
    for path in deployment.folder.rglob("*.safetensors"):
        load_file(path)
    for path in (*deployment.out.rglob("*.json"), *deployment.folder.rglob("state.json")):
        json.loads(path.read_text())
    lines = [json.loads(line) for line in (deployment.out / "metrics.jsonl").read_text().splitlines()]
    recorded = Counter((line["round"], line["client"]) for line in lines)
    assert set(recorded) == {(index, name) for index in range(4) for name in deployment.names}
    assert set(recorded.values()) == {1}
    for flow in ("activation_up", "gradient_down", "labels_up", "adapter_up"):
        assert result["bytes"][flow] == expected.result["bytes"][flow], flow


def run(
    campaign: Campaign,
    num_points: int,
    seed: int,
    out: Path,
    kind: str = "",
    until: float = float("inf"),
) -> None:
    """Do what is missing of `num_points` runs, or of those of a kind; a line is added to `out` after each.

    None is begun after `until`, of the monotonic clock.
    """
    done = {json.loads(line)["index"] for line in out.read_text().splitlines()} if out.exists() else set()
    for index in range(num_points):
        point = draw(seed, index)
        if index in done or not point.kind.startswith(kind):
            continue
        if time.monotonic() > until:
            return
        line = {"index": index, **asdict(point), **campaign.run(point, f"point-{index}")}
        print(json.dumps(line), flush=True)
        with out.open("a") as file:
            file.write(json.dumps(line) + "\n")


def print_table(lines: Iterable[Mapping[str, Any]]) -> None:
    """How many points of each kind there were; a run that had not ended with the same bits would have ended all."""
    print("| killed | points | same bits | while a state was written | while the run went on |")
    print("| --- | ---: | ---: | ---: | ---: |")
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for line in lines:
        groups[line["kind"], line["victims"]].append(line)
    for (kind, victims), group in groups.items():
        writing, alive = (sum(line[key] for line in group) for key in ("was_writing", "was_running"))
        print(f"| {kind}: {victims} | {len(group)} | {len(group)} | {writing} | {alive} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=3 * len(WHERE))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", default="", help="only points of this kind")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after that time")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    until = time.monotonic() + 60 * options.minutes
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        campaign = Campaign(write_tiny_model(Path(name) / "model"), Path(name))
        run(campaign, options.points, options.seed, options.out, options.kind, until)
    print_table(json.loads(line) for line in options.out.read_text().splitlines())


if __name__ == "__main__":
    main()
