"""What hostile messages cost a server's process at its peak: a small multiple of the largest that is legal."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

MB = 1 << 20
HOSTILE = {
    "packed numbers in a hello": (
        "CONNECTING",
        'field(1, field(6, b"\\1" * (64 << 20)))',
        "at most 65536 are accepted",
    ),
    "labels in place of a hello": ("CONNECTING", 'field(4, field(3, b"\\1" * (64 << 20)))', "may not send"),
    "packed samples that are lost": (
        "TRAINING",
        'field(6, field(2, b"\\1" * (64 << 20)))',
        "'reference_lost' of",
    ),
    "many small fields": ("TRAINING", 'field(12, b"") * (16 << 20)', "no message"),
    "many empty fields in one": ("TRAINING", 'field(14, b"\\x12\\0" * (16 << 20))', "may not send"),
    "labels of one token": (
        "TRAINING",
        "field(4, field(3, one_token_labels(1 << 18)))",
        "a batch has at most 4",
    ),
    "a reason without end": ("TRAINING", 'field(13, field(1, b"a" * (64 << 20)))', "'failure' of"),
}
CODE = """
import json, os, struct, sys
import numpy as np, torch
from splitcom.config import Config
from splitcom.errors import RemoteProtocolError
from splitcom.protocol.labels import unpack_labels
from splitcom.protocol.messages_pb2 import Message
from splitcom.protocol.session import Role, Session, State
from splitcom.training.limits import limits_of, largest

def varint(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])

def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content

def one_token_labels(count):
    rows = np.stack([np.arange(count), np.full(count, 255), np.full(count, 256)], 1).astype("<u4")
    return struct.pack("<BI", 2, count) + rows.tobytes() + bytes(2 * count)

def status(key):
    return next(int(l.split()[1]) << 10 for l in open("/proc/self/status") if l.startswith(key))

config = Config(training={"batch_size": 4}, data={"max_tokens": 256})
limits = limits_of(config, 2048, {"a": torch.zeros(8, 64)})

def receive(name, state, content):
    session = Session(Role.SERVER, State[state], limits=limits)
    data = eval(content)
    open("/proc/self/clear_refs", "w").write("5")
    before, said = status("VmRSS"), ""
    try:
        message = session.receive(data)
        unpack_labels(message.activation.labels, 256, config.training.batch_size)
    except RemoteProtocolError as error:
        said = str(error)
    print(json.dumps([name, status("VmHWM") - before, largest(limits), said]), flush=True)

for name, (state, content, _) in json.loads(sys.argv[1]).items():
    if os.fork() == 0:  # each in a process of its own, which has imported everything
        receive(name, state, content)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def outcomes():
    """By name: bytes by which the process grew, of the largest legal message, and what was said."""
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("no peaks of memory in /proc")
    run = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(HOSTILE)], capture_output=True, text=True, check=True
    )
    return {name: outcome for name, *outcome in map(json.loads, run.stdout.splitlines())}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_message_costs_little_and_is_refused(outcomes, name):
    growth, limit, said = outcomes[name]
    assert HOSTILE[name][2] in said
    assert growth < 2 * limit + 8 * MB
