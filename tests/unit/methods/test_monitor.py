"""The page for Prometheus: what it says, and that it listens on this machine alone."""

import urllib.error
import urllib.request

import pytest

from splitcom.errors import RunError
from splitcom.methods.monitor import Monitor, MonitorPage, Snapshot, prometheus
from splitcom.server.observe import StepReport
from splitcom.transports.grpc_server import ClientTraffic


def read(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def test_a_running_monitor_can_be_scraped():
    monitor = Monitor(rounds=5)
    with MonitorPage(monitor.snapshot, 0) as page:
        assert read(f"http://127.0.0.1:{page.port}/healthz") == "ok round 0\n"
        assert "splitcom_loss_nats" not in read(f"http://127.0.0.1:{page.port}/metrics")
        monitor.on_step(StepReport(2, 3, 9, 1.5, 0.25, 1000, {"activation_up": 0.98}))
        monitor.on_round([{"round": 2, "eval_loss": 1.25, "eval_accuracy": 0.75}])
        monitor.on_round([{"round": 2, "eval_loss": None, "eval_accuracy": None}])
        lines = read(f"http://127.0.0.1:{page.port}/metrics").splitlines()
        for line in ("splitcom_round 2", "splitcom_loss_nats 1.5", "splitcom_held_out_loss_nats 1.25",
                     "splitcom_held_out_accuracy 0.75",
                     "splitcom_skip_ratio 0.25", "splitcom_bytes_total 1000", "splitcom_rounds 5",
                     'splitcom_threshold{flow="activation_up"} 0.98'):  # fmt: skip
            assert line in lines
        with pytest.raises(urllib.error.HTTPError, match="404"):
            read(f"http://127.0.0.1:{page.port}/other")
        with pytest.raises(RunError, match=f"--metrics-port {page.port}"):
            MonitorPage(monitor.snapshot, page.port)


def test_clients_are_labelled_and_every_metric_is_typed_once():
    clients = {"clinic-a": ClientTraffic(True, 5, 7, 1), 'odd"\\\n': ClientTraffic(False, 0, 0, 0)}
    text = prometheus(Snapshot(rounds=1, loss=2.0, clients=clients))
    assert 'splitcom_client_up_bytes_total{client="clinic-a"} 5' in text
    assert 'splitcom_client_connected{client="odd\\"\\\\\\n"} 0' in text
    names = {line.split("{")[0].split(" ")[0] for line in text.splitlines() if not line.startswith("#")}
    typed = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert sorted(typed) == sorted(names)
