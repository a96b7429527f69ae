"""Over a network of namespaces: the same bits, and a ledger that agrees with the kernel's counters."""

from pathlib import Path
from typing import Any

import pytest

from ..integration.parties import fork_server
from . import networks
from .networks import SCENARIOS
from .sniffer import Layers

SHORT = "a short run"
JOINING_BYTES = 40_000  # of a client beside the front, headers and handshake included
NOISE_BYTES = 1_000  # of packets that are under way while the counters are read


def assert_true_ledger(figures: dict[str, Any]) -> None:
    run = Layers(**figures["run"])
    parts = run.header_bytes + run.bare_bytes + run.repeated_bytes + run.tls_bytes + run.content_bytes
    assert run.total_bytes == pytest.approx(parts, abs=NOISE_BYTES)
    assert figures["seen_bytes"] == pytest.approx(figures["interface_bytes"], abs=NOISE_BYTES)
    assert 1 < figures["content_over_ledger"] < 1.03


def test_the_ledger_agrees_with_the_counters(tiny_model: Path, tmp_path: Path) -> None:
    figures = networks.measure(SCENARIOS[SHORT], tiny_model, tmp_path, fork_server())
    assert_true_ledger(figures)
    assert 0 < figures["before_the_run_bytes"] - 1.1 * figures["fronts_bytes"] < 2 * JOINING_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != SHORT])
def test_a_bad_network_changes_no_bit(
    name: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = networks.measure(SCENARIOS[name], tiny_model, tmp_path, fork_server())
    with capsys.disabled():
        networks.print_table({name: figures})
    if SCENARIOS[name].reset_after_chunks is None:  # else most of it is handshakes and what is sent again
        assert_true_ledger(figures)
