"""The page for Prometheus: what it says, and that it listens on this machine alone."""

import re
import urllib.error
import urllib.request
from types import SimpleNamespace

import pytest

from splitcom.errors import RunError
from splitcom.methods.monitor import Monitor, Snapshot, monitor_pages, prometheus
from splitcom.server.observe import StepReport
from splitcom.server.peers import Standing
from splitcom.server.waits import Missing
from splitcom.transports.grpc_server import ClientTraffic


def read(url):
    with urllib.request.urlopen(url, timeout=180) as answer:
        return answer.read().decode()


def test_a_running_monitor_can_be_scraped():
    monitor = Monitor(rounds=5)
    with monitor_pages(monitor.snapshot, "0") as page:
        assert read(f"http://127.0.0.1:{page.port}/healthz") == "ok round 0\n"
        assert "splitcom_loss_nats" not in read(f"http://127.0.0.1:{page.port}/metrics")
        monitor.on_step(StepReport(2, 3, 9, 1.5, 0.25, 1000, {"activation_up": 0.98}))
        monitor.on_round([{"round": 2, "client": "a", "eval_loss": 1.25, "eval_accuracy": 0.75}])
        others = {"against_others": {"update_norm": 213.5, "loss": 1.5}, "unlike": ["update_norm"]}
        monitor.on_round([{"round": 2, "client": "a", "eval_loss": None, "eval_accuracy": None, **others}])
        lines = read(f"http://127.0.0.1:{page.port}/metrics").splitlines()
        for line in ("splitcom_round 2.0", "splitcom_loss_nats 1.5", "splitcom_held_out_loss_nats 1.25",
                     "splitcom_held_out_accuracy 0.75",
                     "splitcom_skip_ratio 0.25", "splitcom_bytes_total 1000.0", "splitcom_rounds 5.0",
                     'splitcom_client_against_others{client="a",what="update_norm"} 213.5',
                     'splitcom_client_unlike{client="a"} 1.0',
                     'splitcom_threshold{flow="activation_up"} 0.98'):  # fmt: skip
            assert line in lines
        with pytest.raises(urllib.error.HTTPError, match="404"):
            read(f"http://127.0.0.1:{page.port}/other")
        with pytest.raises(RunError, match=f"--metrics 127.0.0.1:{page.port}"):
            monitor_pages(monitor.snapshot, str(page.port))


def test_it_is_ready_when_clients_can_take_part_and_says_whom_it_waits_for():
    monitor = Monitor(rounds=5)
    with monitor_pages(monitor.snapshot, "localhost:0") as page:
        address = f"http://127.0.0.1:{page.port}"
        with pytest.raises(urllib.error.HTTPError, match="503"):
            read(f"{address}/readyz")
        monitor.watch(SimpleNamespace(traffic=dict, refusals={"CERTIFICATE": 2}, waiting_events=3))
        monitor.on_begin(
            lambda: {"a": Standing("training", 75.0, restarts=1), "b": Standing("idle", refusals=3)}
        )
        assert read(f"{address}/readyz") == "ready: waiting for a for 75 s (training)\n"
        monitor.on_gather(lambda: Missing(1, 3, 60.0, ["a", "b"]))
        told = read(f"{address}/readyz")
        assert re.match(r"ready: waiting for 1 of 3 clients since .* \(60 s\); here: a, b\n", told)
        monitor.on_gather(lambda: None)
        monitor.on_step(StepReport(1, 1, 1, 1.5, 0.25, 1000, seconds={"waiting": 2.0}))
        monitor.on_step(StepReport(1, 2, 2, 1.5, 0.25, 1000, seconds={"waiting": 1.0, "body": 0.5}))
        assert "splitcom_save_age_seconds" not in read(f"{address}/metrics")
        monitor.on_saved(1)
        lines = read(f"{address}/metrics").splitlines()
    for line in (
        'splitcom_client_state{client="a",state="training"} 1.0', 'splitcom_client_waited_seconds{client="a"} 75.0',
        'splitcom_client_waited_seconds{client="b"} 0.0', 'splitcom_client_restarts_total{client="a"} 1.0',
        'splitcom_client_refused_total{client="b"} 3.0', 'splitcom_refusals_total{reason="CERTIFICATE"} 2.0',
        'splitcom_step_seconds{phase="waiting"} 1.0', 'splitcom_step_seconds{phase="body"} 0.5',
        'splitcom_phase_seconds_total{phase="waiting"} 3.0', "splitcom_waiting_events 3.0",
    ):  # fmt: skip
        assert line in lines
    assert any(line.startswith("splitcom_save_age_seconds 0.") for line in lines)


@pytest.mark.parametrize("text", ["", "host", "host:", "host:x", "host:99999", "127.0.0.1:-1"])
def test_an_address_that_is_none_is_refused_with_what_is_one(text):
    with pytest.raises(RunError, match="--metrics"):
        monitor_pages(Monitor(1).snapshot, text)


def test_clients_are_labelled_and_every_metric_is_typed_once():
    clients = {"clinic-a": ClientTraffic(True, 5, 7, 1, 2, 3, 1.5), 'odd"\\\n': ClientTraffic(False, 0, 0, 0)}
    text = prometheus(Snapshot(rounds=1, loss=2.0, clients=clients)).decode()
    assert 'splitcom_client_up_bytes_total{client="clinic-a"} 5.0' in text
    assert 'splitcom_client_unread_messages{client="clinic-a"} 2.0' in text
    assert 'splitcom_client_unacknowledged_messages{client="clinic-a"} 3.0' in text
    assert 'splitcom_client_answer_seconds_total{client="clinic-a"} 1.5' in text
    assert 'splitcom_client_connected{client="odd\\"\\\\\\n"} 0.0' in text
    names = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    typed = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert sorted(typed) == sorted(names)
