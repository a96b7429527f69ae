"""The live page of a run: what it says as the run goes on, that it ends with it, and whom it answers."""

import json
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from splitcom.config import Config
from splitcom.errors import RunError
from splitcom.methods.monitor import Snapshot
from splitcom.metrics.record import RunFolder
from splitcom.report.dashboard import Dashboard
from splitcom.report.folder import load_run_so_far
from splitcom.server.peers import Standing
from splitcom.transports.grpc_server import ClientTraffic

from .report_runs import make_run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def running(run_folder: Path) -> Path:
    """A run of four rounds after its second, with the rest kept beside it."""
    (run_folder / "config.toml").write_text(Config(training={"rounds": 4}).to_toml())
    (run_folder / "result.json").rename(run_folder / "kept.json")
    lines = (run_folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run_folder / "kept.jsonl").write_text("".join(lines[6:]))
    (run_folder / "metrics.jsonl").write_text("".join(lines[:6]))
    return run_folder


def go_on(run: Path) -> None:
    with (run / "metrics.jsonl").open("a") as file:
        file.write((run / "kept.jsonl").read_text())
    (run / "kept.json").rename(run / "result.json")


def events(stream):
    """The events of a stream as they come: (kind, content) each."""
    kind = "message"
    for line in stream:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "event":
            kind = value
        elif name == "data" or line == b"data:\n":
            yield kind, json.loads(value) if value else None


def test_the_page_follows_a_run_and_ends_with_it(running: Path) -> None:
    with Dashboard(running, "0", "--listen", every_s=0.01) as page:
        with urllib.request.urlopen(page.url, timeout=120) as answer:
            document = answer.read().decode()
        assert "2 of 4 rounds done, and no process is at it" in document and document.count("<svg") == 4
        assert "connect-src 'self'" in document and "http" not in document.replace("http-equiv", "").replace(
            "http://www.w3.org", ""
        )
        with urllib.request.urlopen(page.url + "events", timeout=120) as stream:
            coming = events(stream)
            kind, first = next(coming)
            assert kind == "message" and "2 of 4 rounds" in first["state"]
            go_on(running)
            rest = list(coming)  # until the server has nothing more to say
    assert rest[-1] == ("end", None)
    changed = {name: text for kind, parts in rest if kind == "message" for name, text in parts.items()}
    assert (
        "It has ended after 4 rounds" in changed["state"]
        and "clients in round 4" in changed["clients"].lower()
    )
    assert f"{json.loads((running / 'result.json').read_text())['eval']['loss']:.3f}" in changed["cards"]
    assert "notice" not in changed  # what has not changed is not sent again


def test_a_run_that_ends_while_the_page_looks_is_not_taken_for_dead(
    running: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = RunFolder.is_locked.fget

    def ends_after_the_look(folder: RunFolder) -> bool:
        before = locked(folder)
        if (running / "kept.json").exists():
            go_on(running)
        return before

    monkeypatch.setattr(RunFolder, "is_locked", property(ends_after_the_look))
    with (
        Dashboard(running, "0", "--listen") as page,
        urllib.request.urlopen(page.url, timeout=120) as answer,
    ):
        document = answer.read().decode()
    assert "It has ended after 4 rounds" in document and "no process" not in document


def test_a_server_tells_who_is_waited_for(running: Path) -> None:
    snapshot = Snapshot(
        rounds=4, round=3, step=1, num_steps=2, loss=2.5,
        clients={"<b>": ClientTraffic(True, 1000, 2000, 0), "gone": ClientTraffic(False, 0, 0, 0)},
        standings={"<b>": Standing("training", 75.0)},
    )  # fmt: skip
    with (
        Dashboard(running, "0", "--dashboard", lambda: snapshot) as page,
        urllib.request.urlopen(page.url, timeout=120) as answer,
    ):
        document = answer.read().decode()
    assert "Round 3 of 4, step 1 of 2; waiting for &lt;b&gt; for 75 s (training)." in document
    assert "No client has come yet" not in document
    assert 'value="2.5" max="4"' in document and "<b>" not in document
    assert "1.00 kB" in document and "of 2 clients" in document


def test_a_run_that_has_not_begun_is_no_failure(tmp_path: Path) -> None:
    with (
        Dashboard(tmp_path, "0", "--dashboard", lambda: Snapshot(rounds=4)) as page,
        urllib.request.urlopen(page.url, timeout=120) as answer,
    ):
        assert "no run to be found here" in answer.read().decode()
    make_run(tmp_path / "run", rounds=1)
    (tmp_path / "run" / "config.toml").write_text(Config().to_toml())
    (tmp_path / "run" / "result.json").unlink()
    (tmp_path / "run" / "metrics.jsonl").unlink()
    with (
        Dashboard(tmp_path / "run", "0", "--dashboard", lambda: Snapshot(rounds=4)) as page,
        urllib.request.urlopen(page.url, timeout=120) as answer,
    ):
        assert "Round 0 of 5. No client has come yet." in answer.read().decode()
    assert load_run_so_far(tmp_path) is None


def test_other_names_than_this_machines_and_other_paths_are_refused(running: Path) -> None:
    with Dashboard(running, "0", "--listen") as page:
        asked = urllib.request.Request(page.url, headers={"Host": "evil.example:80"})
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(asked, timeout=120)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(page.url + "config.toml", timeout=120)
        with pytest.raises(urllib.error.HTTPError, match="501"):
            urllib.request.urlopen(page.url, data=b"stop", timeout=120)  # a POST
        with pytest.raises(RunError, match=r"--listen 127\.0\.0\.1:"):
            Dashboard(running, page.url.split(":")[-1].strip("/"), "--listen")


def test_a_line_that_is_half_written_is_left_for_the_next_look(running: Path) -> None:
    whole = load_run_so_far(running)
    with (running / "metrics.jsonl").open("a") as file:
        file.write('{"round": 3, "clie')
    assert load_run_so_far(running) == whole is not None


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_a_browser_puts_what_comes_in_its_place(running: Path, tmp_path: Path) -> None:
    """The page is asked for before the run ends, its events after: what it then shows came by its script."""
    page = Dashboard(running, "0", "--listen", every_s=0.01)
    served = page._page

    def page_and_then_the_end() -> str:
        document = served()
        go_on(running)
        return document

    page._page = page_and_then_the_end  # type: ignore[method-assign]
    with page:
        shown = subprocess.run(
            [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
             "--disable-background-networking", "--disable-component-update", "--enable-logging=stderr",
             "--virtual-time-budget=20000", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.url],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
    assert "CONSOLE" not in shown.stderr, shown.stderr
    assert "It has ended after 4 rounds" in shown.stdout and "nobody serves" not in shown.stdout
