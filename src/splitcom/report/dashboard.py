"""The page of a run while it lasts: where it stands, who is waited for, losses and bytes; read only.

    GET /         the page, as things are now
    GET /events   server-sent events: each part of the page that has changed, until the run or the page ends

It fetches nothing from elsewhere. All is drawn here, from the run folder and, if a server is there, its snapshot.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Event, Lock

from markupsafe import Markup

from splitcom.amount import counted
from splitcom.config import Config
from splitcom.errors import RunError
from splitcom.methods.admin import snapshot_of
from splitcom.methods.monitor import Snapshot
from splitcom.methods.pages import Answer, Pages, address_of
from splitcom.metrics.record import RunFolder
from splitcom.report import markup
from splitcom.report.folder import METRICS, Run, load_run_so_far
from splitcom.report.format import format_bytes, format_percent
from splitcom.report.html import flow_table, run_figures
from splitcom.report.live import Rates, client_rows
from splitcom.report.tables import NONE

_PARTS = ("state", "cards", "clients", "figures", "flows", "notice")


class Dashboard:
    """Serves the page of a run; a context manager. `address` as the option has it; `url` is where it is.

    `snapshot` tells where the run stands; without it, that is asked of a server on this machine, if there is one.
    Raises RunError if it cannot listen.
    """

    def __init__(
        self,
        folder: Path,
        address: str,
        option: str,
        snapshot: Callable[[], Snapshot] | None = None,
        every_s: float = 1.0,
    ) -> None:
        self._folder = folder
        self._snapshot = snapshot
        self._every_s = every_s
        self._is_closing = Event()
        self._drawing = Lock()  # matplotlib's settings are those of the process
        self._run: Run | None = None
        self._drawn: tuple[object, dict[str, str]] = (None, {})  # of which state of the folder, and what
        self._rates = Rates()
        routes = {
            "/": lambda: Answer(self._page().encode(), "text/html; charset=utf-8"),
            "/events": lambda: Answer(self._events(), "text/event-stream"),
        }
        port, host = address_of(address, option)
        self._pages = Pages(routes, (port, host), option, named_here=True)
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self._pages.port}/"

    def __enter__(self) -> "Dashboard":
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_closing.set()
        self._pages.__exit__(*exception)

    def wait(self) -> None:
        """Serve until this is interrupted."""
        self._is_closing.wait()

    def _page(self) -> str:
        parts, _ = self._parts()
        name = self._folder.resolve().name
        subtitle = "This page follows the run by itself."
        return markup.page(
            name, subtitle, [markup.part(key, Markup(parts[key])) for key in _PARTS], {}, is_live=True
        )

    def _events(self) -> Iterator[bytes]:
        shown: dict[str, str] = {}
        while True:
            is_last = self._is_closing.is_set()  # looked at first: what came before it is still told
            parts, has_ended = self._parts()
            changed = {name: text for name, text in parts.items() if shown.get(name) != text}
            # a comment if nothing has changed: whoever has gone away is noticed
            yield f"data: {json.dumps(changed)}\n\n".encode() if changed else b": nothing new\n\n"
            shown = parts
            if is_last or has_ended:
                yield b"event: end\ndata:\n\n"
                return
            self._is_closing.wait(self._every_s)

    def _parts(self) -> tuple[dict[str, str], bool]:
        """Each part of the page, and whether the run has ended."""
        folder = RunFolder(self._folder)
        snapshot = self._snapshot() if self._snapshot is not None else _asked(self._folder)
        is_running = folder.is_locked  # asked first: a run that ends meanwhile has its result by then
        has_ended = folder.result() is not None
        with self._drawing:
            try:
                run, drawn = self._drawn_of(has_ended=has_ended)
                rates = {} if snapshot is None else self._rates.of(snapshot)
                rounds = _rounds(folder)
                parts = {
                    "state": _state(run, snapshot, rounds, is_running=is_running, has_ended=has_ended),
                    "cards": _cards(run, snapshot, sum(rates.values())),
                    "clients": _clients(run, snapshot, rates),
                    **drawn,
                    "notice": "",
                }
            except RunError as error:  # half of a folder is there, or it is damaged
                parts = dict.fromkeys(_PARTS, "") | {"state": markup.paragraph(error)}
        return {name: str(text) for name, text in parts.items()}, has_ended

    def _drawn_of(self, *, has_ended: bool) -> tuple[Run | None, dict[str, str]]:
        """The run as far as it has come, and what is drawn of it: anew only if a round has ended."""
        metrics = self._folder / METRICS
        state = (metrics.stat().st_size if metrics.exists() else 0, has_ended)
        if self._drawn[0] != state:
            run = load_run_so_far(self._folder)
            drawn = {"figures": "", "flows": ""}
            if run is not None:
                drawn = {
                    "figures": run_figures(run),
                    "flows": markup.section("Bytes per flow", flow_table(run.result)),
                }
            self._run, self._drawn = run, (state, drawn)
        return self._run, self._drawn[1]


def _asked(folder: Path) -> Snapshot | None:
    try:
        return snapshot_of(folder)
    except RunError:  # of a run in one process, of another user's, or over
        return None


def _rounds(folder: RunFolder) -> int:
    return Config.from_toml(folder.config_toml(), str(folder.path / "config.toml")).training.rounds


def _state(
    run: Run | None, snapshot: Snapshot | None, rounds: int, *, is_running: bool, has_ended: bool
) -> Markup:
    """Where the run is, how much of it is done, and who is waited for."""
    done = 0.0 if run is None else float(run.result.rounds)
    if has_ended and run is not None:
        said = f"It has ended after {counted(run.result.rounds, 'round')}."
        done = rounds = run.result.rounds
    elif snapshot is not None:
        step = f", step {snapshot.step} of {snapshot.num_steps}" if snapshot.num_steps else ""
        waiting = snapshot.waiting()
        said = f"Round {snapshot.round} of {rounds}{step}{'; ' * bool(waiting)}{waiting}."
        said += "" if snapshot.clients else " No client has come yet."
        if snapshot.num_steps and snapshot.round:
            done = max(done, snapshot.round - 1 + snapshot.step / snapshot.num_steps)
    elif is_running:
        said = f"{done:.0f} of {counted(rounds, 'round')} done."
    else:
        said = f"{done:.0f} of {counted(rounds, 'round')} done, and no process is at it: go on by --resume."
    return Markup(markup.bar(done, rounds) + markup.paragraph(said))


def _cards(run: Run | None, snapshot: Snapshot | None, rate: float) -> Markup | str:
    items = []
    if run is not None:
        quality, sent = run.result.eval, run.result.bytes["total"]
        items.append(
            (
                "Held-out loss",
                f"{quality.loss:.3f}",
                f"{quality.unit}; {quality.initial_loss:.3f} before training, {quality.best_loss:.3f} at best",
            )
        )
        if quality.accuracy is not None:
            items.append(("Accuracy", format_percent(quality.accuracy), "of held-out samples"))
        whole = format_bytes(run.result.uncompressed_bytes["total"])
        items.append(
            (
                "Sent",
                format_bytes(sent),
                f"up and down, to the end of round {run.result.rounds}; {whole} as fp16",
            )
        )
        items.append(
            ("Saving", format_percent(run.result.saving["total"]), "against the same run uncompressed (fp16)")
        )
    if snapshot is not None:
        loss = NONE if snapshot.loss is None else f"{snapshot.loss:.3f}"
        items.append(("Training loss", loss, "of the last step"))
        connected = sum(client.connected for client in snapshot.clients.values())
        items.append(("Connected", str(connected), f"of {counted(len(snapshot.clients), 'client')}"))
        items.append(("On the wire", f"{format_bytes(rate)}/s", "up and down, of all clients"))
    return markup.cards(items) if items else ""


def _clients(run: Run | None, snapshot: Snapshot | None, rates: Mapping[str, float]) -> Markup | str:
    """Who is at what, if a server tells; else what the last round was to each client."""
    if snapshot is not None:
        heads, rows = client_rows(snapshot, rates)
        return markup.section("Clients", markup.table([head.capitalize() for head in heads], rows, texts=3))
    if run is None or not run.result.rounds:
        return ""
    last = [line for line in run.metrics if line.round == run.metrics[-1].round]
    rows = [
        [
            str(line.client),
            NONE if line.loss is None else f"{line.loss:.3f}",
            format_bytes(line.bytes.get("up", 0)),
            format_bytes(line.bytes.get("down", 0)),
            ", ".join(line.unlike) or NONE,
        ]
        for line in last
    ]
    heads = ["Client", "Training loss", "Up", "Down", "Unlike the others"]
    return markup.section(f"Clients in round {last[0].round}", markup.table(heads, rows))
