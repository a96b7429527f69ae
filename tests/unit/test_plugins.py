"""Packages that add to this one."""

import sys
from importlib.metadata import entry_points

import pytest

from splitcom.codecs import parse
from splitcom.codecs.element import ELEMENTS
from splitcom.errors import PluginError, SpecError
from splitcom.plugins import load_plugins

MODULE = """
from dataclasses import dataclass
from splitcom.codecs.chain.stage import Entropy
from splitcom.codecs.element import register

@register
@dataclass(frozen=True)
class Plain(Entropy):
    name = "plain"

    def compress(self, data):
        return data

    def decompress(self, data, limit_bytes):
        return bytes(data)
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Install a package with this module as if by pip."""

    def install(text):
        (tmp_path / "a_plug_in.py").write_text(text)
        info = tmp_path / "a_plug_in-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: a-plug-in\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[splitcom]\nplain = a_plug_in\n")
        monkeypatch.syspath_prepend(tmp_path)

    load_plugins.cache_clear()
    yield install
    load_plugins.cache_clear()
    ELEMENTS.pop("plain", None)
    sys.modules.pop("a_plug_in", None)


def test_a_stage_of_another_package_can_be_named(package):
    with pytest.raises(SpecError, match="no stage 'plain'"):
        parse("int8 > plain")
    load_plugins.cache_clear()

    package(MODULE)

    assert "plain" in entry_points(group="splitcom").names
    assert str(parse("int8 > plain")) == "int8 > plain"


def test_one_that_fails_is_named_with_its_package(package):
    package("raise RuntimeError('no')")

    with pytest.raises(PluginError, match=r"plain \(a_plug_in\) of a-plug-in 1.0 cannot be loaded"):
        parse("int8 > plain")
