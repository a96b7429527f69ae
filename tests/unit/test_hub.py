"""What is said before the hub is asked for something, and that nobody waits for a hub that cannot be reached."""

import pytest
from huggingface_hub import constants

from splitcom import hub
from splitcom.errors import ModelError
from splitcom.models.load import load_config


@pytest.fixture
def no_network(monkeypatch):
    """Not even an address of the hub."""

    def unknown(*_arguments):
        raise OSError("no such name")

    monkeypatch.setattr(hub.socket, "getaddrinfo", unknown)
    monkeypatch.setattr(hub, "getproxies", dict)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    hub.ask_hub.cache_clear()
    yield
    hub.ask_hub.cache_clear()


def test_without_a_network_a_name_is_refused_at_once(no_network, caplog):
    wanted = (
        "team/absent: cannot load the configuration: it is no folder here, and not stored on this machine"
    )
    with pytest.raises(ModelError, match=wanted):
        load_config("team/absent")
    assert constants.HF_HUB_OFFLINE  # so that no library has tried, and tried again
    assert "team/absent is not on this machine: asking https://" in caplog.text


def test_behind_a_proxy_the_hub_is_asked(no_network, monkeypatch):
    monkeypatch.setattr(hub, "getproxies", lambda: {"https": "http://proxy.example:3128"})
    hub.ask_hub("team/absent", "dataset")
    assert not constants.HF_HUB_OFFLINE
    monkeypatch.setattr(hub, "getproxies", lambda: {"no": "localhost"})  # which names none
    hub.ask_hub("team/other")
    assert constants.HF_HUB_OFFLINE
