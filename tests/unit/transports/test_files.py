"""The limit of open files, which a thousand connections would meet."""

import logging
import sys

import pytest

if sys.platform == "win32":
    pytest.skip("no such limit", allow_module_level=True)

import resource

from splitcom.transports import files
from splitcom.transports.files import allow_connections


@pytest.mark.parametrize(
    ("limits", "raised", "warns"),
    [
        ((1024, 524288), (2512, 524288), False),
        ((1024, resource.RLIM_INFINITY), (2512, resource.RLIM_INFINITY), False),
        ((1024, 2000), (2000, 2000), True),
        ((4096, 4096), None, False),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None, False),
    ],
)
def test_it_is_raised_as_far_as_needed_and_may_be(monkeypatch, caplog, limits, raised, warns):
    found = []
    monkeypatch.setattr(files.resource, "getrlimit", lambda what: limits)
    monkeypatch.setattr(files.resource, "setrlimit", lambda what, to: found.append(to))
    with caplog.at_level(logging.WARNING, "splitcom"):
        allow_connections(1000)
    assert found == ([raised] if raised else [])
    assert ("= 1000: they need up to 2512 open files, and this process may have 2000" in caplog.text) is warns
