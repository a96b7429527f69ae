"""The virtual clock."""

import pytest

from splitcom.config import LinkConfig, LinksConfig
from splitcom.transports.link import VirtualClock


def test_the_virtual_clock_adds_transfer_latency_and_compute():
    link = LinkConfig(up_mbps=8.0, down_mbps=80.0, latency_ms=10.0, step_s=0.5)
    clock = VirtualClock(
        LinksConfig(server_step_s=1.0), link_of=lambda name: link if name == "slow" else LinkConfig()
    )
    clock.down("slow", 1_000_000)  # 0.1 s + 10 ms
    clock.client_computed("slow", 99.0)  # 0.5 s as given
    arrival = clock.up("slow", 1_000_000)  # 1 s + 10 ms
    assert arrival == pytest.approx(0.11 + 0.5 + 1.01)
    clock.server_received(arrival)
    clock.server_computed(99.0)
    assert clock.server_time_s == pytest.approx(arrival + 1.0)
    clock.down("fast", 1_000_000)
    clock.client_computed("fast", 0.25)
    assert clock.up("fast", 10**9) == pytest.approx(clock.server_time_s + 0.25)


def test_jitter_is_seeded_and_survives_a_checkpoint():
    links = LinksConfig(latency_ms=5.0, jitter_ms=3.0)
    one, other = VirtualClock(links, seed=1), VirtualClock(links, seed=1)
    arrivals = [one.up("a", 100) for _ in range(6)]
    assert len(set(arrivals)) == 6 and min(arrivals) >= 0.005
    assert [other.up("a", 100) for _ in range(3)] == arrivals[:3]
    resumed = VirtualClock(links, seed=1)
    resumed.load_state(other.state())
    assert [resumed.up("a", 100) for _ in range(3)] == arrivals[3:]
