"""One client of three sends what it must not: it is told why, and the others finish as if it had left instead.

The hostile client is a real one until the message that is changed on its way out; from then on it knows no other. What
the run makes of it is compared, bit for bit, with a run in which the client says at the same moment that it leaves.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf, isfinite, nan

import numpy as np
import pytest
import torch

from splitcom.codecs import Context, MemoryReferences, Ragged, parse
from splitcom.config import Config
from splitcom.errors import NonFiniteError, OutOfRangeError
from splitcom.methods.run import configured, train
from splitcom.models import Body
from splitcom.parties.parts import load_parts
from splitcom.parties.texts import load_texts
from splitcom.protocol.labels import pack_labels, unpack_labels
from splitcom.protocol.messages_pb2 import Failure, Message
from splitcom.simulation import simulation as room
from splitcom.simulation.simulation import Simulation
from splitcom.transports.inproc import InProcess

HOSTILE = "client-1"
CODEC = "fp16"
WIDE_CODEC = "none"  # fp32
PLAIN = {"flows.adapter_up.codec": "fp16"}  # so that what is sent can be taken apart
EXACT = {"evaluation.codec": WIDE_CODEC}
MAX_TOKENS = 256
HALF = {"model.dtype": "float16", "training.lr": 1e-3}
"""Where numbers overflow that the codec takes."""
EQUALLY_FAST = {"links.step_s": 1.0, "links.server_step_s": 0.1}
"""So that the order of arrival is that of the names, and another client is always waited for."""
Change = Callable[[Message], None]


@dataclass
class Attack:
    """The `at`-th message of a kind is sent as what `change` makes of it, and again after every answer.

    `copies`: that many of each; `raw`: these bytes, whatever the message. `expected` is in the reason that the client
    is told.
    """

    name: str
    kind: str
    change: Change
    expected: str
    at: int = 2  # of activations: the last of its first round, while another client has one more
    copies: int = 1
    raw: bytes = b""
    method: str = "splitcom"
    codec: str = CODEC
    settings: dict[str, object] = field(default_factory=dict)


def packet_field(message: Message) -> tuple[Message, str]:
    """What a message carries, and the name of the field with the packet."""
    kind = message.WhichOneof("kind")
    return getattr(message, kind), "gradient" if kind == "gradient_up" else "activation"


def activation(change: Callable[[torch.Tensor, list[int], list[int]], tuple], codec: str = CODEC) -> Change:
    """Change values [tokens, hidden], lengths and ids of what a client sends, whichever message carries it."""

    def apply(message: Message) -> None:
        content, field_name = packet_field(message)
        decoded = parse(codec).decode(getattr(content, field_name), MemoryReferences())
        values, lengths, ids = change(decoded.batch.values, decoded.batch.lengths.tolist(), decoded.ids)
        batch = Ragged(values, torch.tensor(lengths))
        setattr(content, field_name, parse(codec).encode(batch, ids, Context(MemoryReferences())).packet)

    return apply


def labels(change: Callable[[dict[int, np.ndarray]], dict[int, np.ndarray]]) -> Change:
    """Change the labels of a message by sample id."""

    def apply(message: Message) -> None:
        content = getattr(message, message.WhichOneof("kind"))
        content.labels = pack_labels(change(unpack_labels(content.labels, MAX_TOKENS)))

    return apply


def of_the_first(change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Change the labels of one sample."""

    def apply(rows: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        first = next(iter(rows))
        return rows | {first: change(rows[first])}

    return labels(apply)


def adapter(change: Callable[[list[torch.Tensor]], list[torch.Tensor]], codec: str = "fp16") -> Change:
    """Change an adapter's tensors, as rows [rows, 64] in the order of their names; `codec` packs what comes of it."""

    def apply(message: Message) -> None:
        batch = parse("fp16").decode(message.round_end.adapter).batch
        rows = change(list(torch.split(batch.values, batch.lengths.tolist())))
        lengths = torch.tensor([len(tensor) for tensor in rows])
        packet = parse(codec).encode(Ragged(torch.cat(rows), lengths), range(len(rows))).packet
        message.round_end.adapter = packet

    return apply


def with_bits(value: float) -> Change:
    """Overwrite the last number of an adapter by one that no codec packs."""

    def apply(message: Message) -> None:
        message.round_end.adapter = message.round_end.adapter[:-2] + np.float16(value).tobytes()

    return apply


def fields(kind: str, **values: object) -> Change:
    def apply(message: Message) -> None:
        for key, value in values.items():
            setattr(getattr(message, kind), key, value)

    return apply


def becomes(**content: object) -> Change:
    return lambda message: message.CopyFrom(Message(**content))


def with_last(row: np.ndarray, token: int) -> np.ndarray:
    return np.append(row[:-1], token)


def filled(tensor: torch.Tensor, value: float) -> torch.Tensor:
    return torch.full_like(tensor, value)


def nan_packet(message: Message) -> None:
    """fp16 values are sent as they are, after the header: one of them becomes a NaN."""
    content, field_name = packet_field(message)
    setattr(content, field_name, getattr(content, field_name)[:-2] + np.float16(nan).tobytes())


def wide(value: float) -> Change:
    return activation(lambda v, n, ids: (filled(v, value), n, ids), WIDE_CODEC)


def more_samples(message: Message) -> None:
    """Twice as many, of new ids."""
    activation(twice, WIDE_CODEC)(message)
    labels(lambda rows: rows | {sample + 1000: row for sample, row in rows.items()})(message)


def twice(values: torch.Tensor, lengths: list[int], ids: list[int]) -> tuple:
    return torch.cat([values, values]), lengths * 2, [*ids, *(sample + 1000 for sample in ids)]


def many_short(values: torch.Tensor, lengths: list[int], ids: list[int]) -> tuple:
    return values[:16], [2] * 8, [*range(8)]


def only_the_first(values: torch.Tensor, lengths: list[int], ids: list[int]) -> tuple:
    return values[: lengths[0]], lengths[:1], ids[:1]


def longer(values: torch.Tensor, lengths: list[int], ids: list[int]) -> tuple:
    return torch.cat([values[:1].expand(300, -1), values[lengths[0] :]]), [300, *lengths[1:]], ids


TRAINING = [
    Attack("width", "activation", activation(lambda v, n, ids: (v[:, 1:], n, ids)), "width 31; the model's is 32"),
    Attack("NaN", "activation", nan_packet, "not finite"),
    Attack("huge values", "activation", wide(1e5), "not finite", codec=WIDE_CODEC, settings=HALF),
    Attack(
        "huge values, one client after the other", "activation", wide(1e5), "not finite", codec=WIDE_CODEC,
        settings=HALF | {"training.body_update": "sequential", "lora.dropout": 0.0},
    ),
    Attack("no packet", "activation", becomes(activation={"step": 1, "activation": b"\1" * 40}), "not a packet"),
    Attack("too many tokens", "activation", activation(longer), "an activation of 300 tokens; expected 2 to 256"),
    Attack("label length", "activation", of_the_first(lambda row: row[:-1]), "labels for an activation of", at=1),
    Attack(
        "token beyond the vocabulary", "activation", of_the_first(lambda row: with_last(row, 500)),
        "a label of 500; the vocabulary's size is 500", at=1,
    ),
    Attack(
        "negative label", "activation", of_the_first(lambda row: with_last(row, -1)),
        r"a label of (65535|4294967295); the vocabulary", at=1,
    ),
    Attack(
        "labels of samples it does not have", "activation",
        labels(lambda rows: rows | {1000 + i: np.array([1, 2]) for i in range(100)}),
        "labels of 104 samples; a batch has at most 4", at=1,
    ),
    Attack("labels kept back", "activation", fields("activation", labels=b""), "again and again", at=1),
    Attack("step twice", "activation", lambda message: None, "may not send 'activation' while", copies=2),
    Attack("step again", "activation", fields("activation", step=0), "step 0 of a round of 2, after 1"),
    Attack("step left out", "activation", fields("activation", step=2), "step 2 of a round of 2, after 1"),
    Attack(
        "endless reference_lost", "activation", becomes(reference_lost={"sample_ids": [1]}),
        "again and again",
    ),
    Attack("garbage", "activation", lambda message: None, "40 bytes that are no message", raw=b"\xff" * 40),
    Attack("out of order", "activation", becomes(state_saved={}), "may not send 'state_saved' while"),
]  # fmt: skip
ROUND_END = [
    replace(attack, kind="round_end", at=1)
    for attack in [
        Attack("missing", "", adapter(lambda rows: rows[1:]), "whose sizes are not the model's"),
        Attack(
            "other shape",
            "",
            adapter(lambda rows: [rows[0][:-1], *rows[1:]]),
            "whose sizes are not the model's",
        ),
        Attack("wide", "", adapter(lambda rows: [t.repeat(1, 2) for t in rows]), "are believed"),
        Attack("NaN", "", with_bits(nan), "not finite"),
        Attack("Inf", "", with_bits(-inf), "not finite"),
        Attack("too large to send on", "", with_bits(-65504.0), "not below 65504"),
        Attack("another codec's", "", adapter(lambda rows: rows, "int8"), "of another codec"),
        Attack("garbage", "", fields("round_end", adapter=b"\xff" * 40), "packet"),
        Attack("no adapter", "", fields("round_end", adapter=b""), "an adapter of 0 bytes"),
        Attack("wrong round", "", fields("round_end", round=7), "the end of round 7; it is in round 1"),
    ]
]
MANY = 1 << 60  # of anything
NO_STEP = Attack("no step", "activation", becomes(round_end={"round": 1}), "a round without a step", at=1)
EVALUATION = [
    replace(attack, kind="evaluation_batch", at=2)
    for attack in [
        Attack("NaN", "", nan_packet, "not finite", settings={"evaluation.codec": CODEC}),
        Attack("huge values", "", wide(1e5), "loss or gradients are not finite", settings=HALF | EXACT),
        Attack("more than it has", "", more_samples, "references are lost again and again", settings=EXACT),
    ]
]
WHOLE = [
    replace(attack, method="fedlora", at=1)
    for attack in [
        Attack("many tokens", "round_end", fields("round_end", num_tokens=1 << 60), f"{1 << 60} tokens trained on"),
        Attack("no tokens", "round_end", fields("round_end", num_tokens=0), "0 tokens trained on"),
        Attack("many steps", "round_end", fields("round_end", num_steps=1 << 30), f"{1 << 30} steps"),
        Attack("NaN loss", "round_end", fields("round_end", loss_sum=nan), "a loss of nan"),
        Attack("many labels", "round_end", fields("round_end", num_labels=1 << 60), f"{1 << 60} labelled tokens"),
        Attack("activation", "round_end", becomes(activation={}), "a run that is not split"),
        Attack("NaN evaluation", "evaluation_end", fields("evaluation_end", loss_sum=nan), "a loss of nan"),
        Attack("many evaluated", "evaluation_end", fields("evaluation_end", num_labels=1 << 60), "labelled tokens"),
        Attack("more right than there are", "round_end", fields("round_end", num_correct=MANY), "labels told right"),
        Attack("more right", "evaluation_end", fields("evaluation_end", num_correct=MANY), "labels told right"),
        Attack("negative loss", "evaluation_end", fields("evaluation_end", loss_sum=-1.0), "a loss of -1.0"),
        Attack("evaluation batch", "evaluation_end", becomes(evaluation_batch={}), "a run that is not split"),
    ]
]  # fmt: skip
U_SHAPE = [
    replace(attack, settings={"model.tail_blocks": 1, "flows.gradient_up.codec": CODEC})
    for attack in [
        Attack("NaN", "activation_up", nan_packet, "not finite"),
        Attack(
            "step left out",
            "activation_up",
            fields("activation_up", step=2),
            "step 2 of a round of 2, after 1",
        ),
        Attack("NaN", "gradient_up", nan_packet, "not finite"),
        Attack("many samples", "activation_up", activation(many_short), "8 samples in a batch; at most 4"),
        Attack("of other tokens", "gradient_up", activation(only_the_first), "of other samples or tokens"),
        Attack("no labels", "gradient_up", fields("gradient_up", num_labels=0), "for 0 of [0-9]+ tokens"),
        Attack(
            "many labels",
            "gradient_up",
            fields("gradient_up", num_labels=2**32 - 1),
            "for 4294967295 of [0-9]+ tokens",
        ),
        Attack("more right", "round_end", fields("round_end", num_correct=MANY), "told right", at=1),
        Attack(
            "many evaluated", "evaluation_end", fields("evaluation_end", num_labels=MANY), "labelled tokens"
        ),
        Attack("NaN loss", "round_end", fields("round_end", loss_sum=nan), "a loss of nan", at=1),
        Attack("NaN evaluation", "evaluation_end", fields("evaluation_end", loss_sum=nan), "a loss of nan"),
    ]
]
U_SHAPE += [
    Attack(
        "though the body is frozen",
        "gradient_up",
        lambda message: setattr(message.gradient_up, "gradient", b"some"),
        "4 bytes of gradient for [0-9]+ of [0-9]+ tokens, where the body is frozen",
        settings={
            "model.tail_blocks": 1,
            "flows.activation_up.controller": "freeze(0.9, 0.9, patience=0, after=0)",
        },
        codec="temporal(0.9) > int8",
    )
]
HALF_U_SHAPE = HALF | {"model.tail_blocks": 1, "flows.gradient_up.codec": WIDE_CODEC, "lora.dropout": 0.0}
U_SHAPE += [
    Attack(
        "huge values",
        kind,
        wide(1e5),
        "loss or gradients are not finite",
        codec=WIDE_CODEC,
        settings=HALF_U_SHAPE,
    )
    for kind in ("activation_up", "gradient_up")
]
ATTACKS = {
    f"{attack.method}, {attack.kind}: {attack.name}": attack
    for attack in [*TRAINING, *ROUND_END, NO_STEP, *EVALUATION, *WHOLE, *U_SHAPE]
}
SELDOM = {
    "splitcom, activation: huge values, one client after the other",
    "splitcom, activation: no packet",
    "splitcom, activation: too many tokens",
    "splitcom, activation: label length",
    "splitcom, activation: negative label",
    "splitcom, activation: labels of samples it does not have",
    "splitcom, activation: step again",
    "splitcom, activation: out of order",
    "splitcom, round_end: other shape",
    "splitcom, round_end: wide",
    "splitcom, round_end: Inf",
    "splitcom, round_end: too large to send on",
    "splitcom, round_end: another codec's",
    "splitcom, round_end: garbage",
    "splitcom, round_end: no adapter",
    "fedlora, round_end: no tokens",
    "fedlora, round_end: many steps",
    "fedlora, round_end: many labels",
    "fedlora, evaluation_end: many evaluated",
    "fedlora, evaluation_end: evaluation batch",
    "splitcom, activation_up: NaN",
    "splitcom, activation_up: step left out",
    "splitcom, activation_up: huge values",
    "splitcom, gradient_up: no labels",
    "splitcom, round_end: NaN loss",
    "splitcom, evaluation_batch: huge values",
    "splitcom, gradient_up: huge values",
}
"""Refused where another of these is, for a reason that a unit test knows: in the long run only."""


class Outcome:
    """What has become of a run, and of its clients."""

    def __init__(self, config: Config, folder, attack: Attack, change: Change) -> None:
        refusals: list[tuple[str, str]] = []
        seen, said = 0, b""

        class Tampering(InProcess):
            def _answer(self, client: str, data: bytes) -> None:
                nonlocal seen, said
                message = Message.FromString(data)
                seen += client == HOSTILE and message.WhichOneof("kind") == attack.kind
                if client != HOSTILE or seen < attack.at:
                    return super()._answer(client, data)
                change(message)
                said = attack.raw or message.SerializeToString()
                for _ in range(attack.copies):
                    super()._answer(client, said)

            def send(self, client: str, data: bytes) -> None:
                if client != HOSTILE or not said or Message.FromString(data).WhichOneof("kind") == "failure":
                    super().send(client, data)
                else:
                    super()._answer(client, said)

            def refuse(self, client: str, reason: str) -> None:
                refusals.append((client, reason))
                super().refuse(client, reason)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(room, "InProcess", Tampering)
            simulation = Simulation(config, load_texts(config), load_parts(config), folder)
            self.lines = [line for lines in simulation.federation.run() for line in lines]
        self.refusals = refusals
        self.losses = simulation.federation.eval_losses
        engine = simulation.federation.engine
        self.adapter = simulation.federation.adapter | ({} if engine is None else engine.adapter())


def leave(message: Message) -> None:
    message.CopyFrom(Message(failure=Failure(reason="leaving")))


@pytest.fixture(scope="module")
def without():
    """Runs in which the client leaves instead, by what else they depend on."""
    return {}


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(attack, id=name, marks=[pytest.mark.slow] if name in SELDOM else [])
        for name, attack in ATTACKS.items()
    ],
)
def test_a_hostile_client_is_told_why_and_leaves_no_trace(attack: Attack, tiny_config, tmp_path, without):
    changes = {"method": attack.method, "flows.activation_up.codec": attack.codec, "lora.dropout": 0.1}
    config = configured(tiny_config.override(PLAIN | changes | EQUALLY_FAST | attack.settings))
    outcome = Outcome(config, tmp_path / "attacked", attack, attack.change)
    key = (attack.kind, attack.at, config.to_toml())
    if key not in without:
        without[key] = Outcome(config, tmp_path / "left", replace(attack, copies=1, raw=b""), leave)
    expected = without[key]

    assert [client for client, _ in outcome.refusals] == [HOSTILE]
    assert re.search(attack.expected, outcome.refusals[0][1]), outcome.refusals
    assert expected.refusals == []
    assert outcome.losses.keys() == {0, 1, 2}
    assert all(isfinite(loss) for loss in outcome.losses.values())
    assert outcome.losses[2] < outcome.losses[0]
    assert outcome.losses == expected.losses
    assert outcome.adapter.keys() == expected.adapter.keys()
    assert all(torch.equal(outcome.adapter[name], expected.adapter[name]) for name in expected.adapter)
    last = [line["client"] for line in outcome.lines if line["round"] == 2 and line["steps"]]
    assert last == ["client-0", "client-2"]


NARROW = {
    "model.tail_blocks": 1,
    "flows.activation_up.codec": WIDE_CODEC,
    "flows.gradient_up.codec": WIDE_CODEC,
    "flows.activation_down.codec": "fp16",
    "flows.gradient_down.codec": "fp16",
}


@pytest.mark.parametrize(
    ("kind", "flow"), [("activation_up", "activation_down"), ("gradient_up", "gradient_down")]
)
def test_what_the_codec_of_another_flow_cannot_hold_is_refused_of_one_client(
    tiny_config, tmp_path, kind, flow
):
    config = configured(tiny_config.override(NARROW))
    attack = Attack("huge", kind, wide(1e10), "")
    outcome = Outcome(config, tmp_path / "run", attack, attack.change)
    [(client, reason)] = outcome.refusals
    assert client == HOSTILE
    assert re.search(rf"flow {flow}: .* beyond the range of fp16.* end this codec in bf16 or none", reason)
    assert all(isfinite(loss) for loss in outcome.losses.values()) and outcome.losses.keys() == {0, 1, 2}


def test_what_the_codec_cannot_hold_of_any_client_ends_the_run_with_the_remedy(
    tiny_config, tmp_path, caplog, monkeypatch
):
    forward = Body.forward
    monkeypatch.setattr(Body, "forward", lambda *arguments: forward(*arguments) * 1e8)
    config = configured(tiny_config.override(NARROW | {"evaluation.codec": WIDE_CODEC}))
    with pytest.raises(OutOfRangeError, match=r"flow activation_down: .* end this codec in bf16 or none"):
        train(config, tmp_path / "run")
    assert "is refused" not in caplog.text


@pytest.mark.parametrize("clients", [1, 3])
@pytest.mark.parametrize("form", [{}, {"model.tail_blocks": 1}, {"method": "fedlora"}], ids=str)
def test_training_that_diverges_is_nobodys_attack(tiny_config, tmp_path, caplog, form, clients):
    wild = {"training.lr": 1e6, "training.clip_norm": 1e5, "training.rounds": 4, "lora.dropout": 0.1}
    config = tiny_config.override({**form, **wild, "federation.clients": clients})
    with pytest.raises(NonFiniteError, match=r"training has diverged: lower training\.lr"):
        train(config, tmp_path / "run")
    assert "is refused" not in caplog.text
