"""Whoever is killed where: started again, the run ends with the same bits, and nothing is lost or half written."""

from pathlib import Path

import pytest

from splitcom.errors import RunError
from splitcom.metrics.record import RunFolder

from . import crashes
from .crashes import WHERE, Campaign


@pytest.fixture(scope="module")
def campaign(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Campaign:
    return Campaign(tiny_model, tmp_path_factory.mktemp("campaign"))


def test_every_kind_of_point_is_drawn_for_everybody() -> None:
    points = [crashes.draw(1, index) for index in range(4 * len(WHERE))]
    assert {(point.kind, point.victims) for point in points} == set(WHERE)
    assert {kind.split()[0] for kind, _ in WHERE} == {"time", "frame", *crashes.CODE}
    assert len({point.share for point in points}) == len(points)
    assert {point.references for point in points} == {"memory", "file"}
    assert points[3] == crashes.draw(1, 3) != crashes.draw(2, 3)


@pytest.mark.slow
@pytest.mark.parametrize("where", [("writing", "both"), ("frame during", "client")])
def test_a_crash_changes_no_bit(campaign: Campaign, where: tuple[str, str]) -> None:
    index = WHERE.index(where)
    campaign.run(crashes.draw(1, index), f"point-{index}")


def test_a_run_that_was_killed_while_it_wrote_its_first_file_begins_anew(tmp_path: Path) -> None:
    (tmp_path / ".config.toml.4711.partial").write_text("seed = ")
    RunFolder(tmp_path).refuse_if_used()
    RunFolder(tmp_path).begin("seed = 1")
    assert RunFolder(tmp_path).config_toml() == "seed = 1"
    with pytest.raises(RunError, match="exists"):
        RunFolder(tmp_path).refuse_if_used()


@pytest.mark.slow
def test_a_long_campaign_changes_no_bit(
    campaign: Campaign, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with capsys.disabled():
        crashes.run(campaign, 3 * len(WHERE), 1, tmp_path / "crashes.jsonl")
