"""Mutated and random frames against all that reads a peer's bytes: refused, or read within the limits."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from splitcom.codecs import ELEMENTS, parse
from splitcom.protocol.messages_pb2 import Message
from splitcom.transports.frames_pb2 import Frame
from splitcom.transports.framing import unpack

from . import campaign
from .mutate import EDITS, Edit, hostile_frame, hostile_frames
from .targets import SPECS, Target, all_targets

PROJECT = Path(__file__).parents[2]


def is_accepted(target: Target, frame: bytes) -> bool:
    """False where it is refused as it must be; any other exception is a failure."""
    try:
        target.feed(frame)
    except campaign.REFUSALS:
        return False
    return True


def target_named(name: str) -> Target:
    return next(target for target in all_targets() if target.name == name)


def test_every_stage_and_every_kind_of_message_is_attacked() -> None:
    assert {stage.name for text in SPECS for stage in parse(text).elements} == set(ELEMENTS)
    messages = [Message.FromString(frame) for frame in target_named("session").corpus]
    kinds = {field.name for field in Message.DESCRIPTOR.oneofs_by_name["kind"].fields}
    assert {message.WhichOneof("kind") for message in messages} == kinds
    frames = [unpack(frame).frame for frame in target_named("frame").corpus]
    kinds = {field.name for field in Frame.DESCRIPTOR.oneofs_by_name["kind"].fields}
    assert {frame.WhichOneof("kind") for frame in frames} == kinds


def test_mutations_are_made_of_frames_that_are_accepted_and_of_frames_that_are_not() -> None:
    for target in all_targets():
        assert any(is_accepted(target, frame) for frame in target.corpus), target.name
    bombs = [t for t in all_targets() if "zstd" in t.name and not is_accepted(t, t.corpus[-1])]
    assert len(bombs) == sum("zstd" in target.name for target in all_targets()) > 0


def test_a_frame_follows_from_its_seed_and_index() -> None:
    corpus = [bytes(range(100)), b"some text with 3 numbers: 17, 256"]
    frames = [hostile_frame(corpus, seed, index) for seed in range(2) for index in range(200)]
    assert frames == [hostile_frame(corpus, seed, index) for seed in range(2) for index in range(200)]
    assert frames[:200] != frames[200:]
    assert len(set(frames)) > 0.9 * len(frames)


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_every_edit_changes_frames_and_takes_empty_ones(edit: Edit) -> None:
    corpus = [b"[1, 22, 333] " * 9, bytes(range(64))]
    changed = set()
    for index in range(20):
        for frame in (b"", corpus[0]):
            damaged = bytearray(frame)
            edit(damaged, corpus, Random(index))
            changed.add(bytes(damaged))
    assert len(changed - {b"", corpus[0]}) >= 5


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_damage(data: st.DataObject) -> None:
    target = data.draw(st.sampled_from(all_targets()))
    is_accepted(target, data.draw(hostile_frames(target.corpus)))


def assert_thorough(report: dict[str, dict[str, float]], num_frames: int) -> None:
    assert set(report) == {target.name for target in all_targets()}
    assert sum(result["frames"] for result in report.values()) >= num_frames
    for name, result in report.items():
        assert 0 < result["accepted"] < result["frames"], name


def test_short_campaign() -> None:
    assert_thorough(campaign.run(2_000, seed=0, timeout_s=1_800), 2_000)


@pytest.mark.slow
def test_full_campaign() -> None:
    assert_thorough(campaign.run(150_000, seed=1, timeout_s=1_800), 150_000)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed")
def test_coverage_guided_campaign(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.faults.fuzz_atheris", str(tmp_path), "-runs=50000", "-seed=1"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=1_800, check=False)
    assert done.returncode == 0, done.stderr[-10_000:]
