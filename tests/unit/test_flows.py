"""The table of flows, and that every byte of a message belongs to one."""

from google.protobuf.descriptor import FieldDescriptor

from splitcom.flows import AT_CUT, FLOWS
from splitcom.protocol.accounting import flows_of
from splitcom.protocol.messages_pb2 import Message

KINDS = {field.name: field.message_type for field in Message.DESCRIPTOR.fields}


def test_every_payload_of_a_message_belongs_to_one_flow():
    claimed = [field for flow in FLOWS.values() for field in flow.fields]
    whole = {kind for flow in FLOWS.values() for kind in flow.messages}
    payloads = {
        f"{kind}.{field.name}"
        for kind, message in KINDS.items()
        for field in message.fields
        if field.type == FieldDescriptor.TYPE_BYTES
        and kind not in whole
        and not field.name.endswith("digest")
    }
    assert len(claimed) == len(set(claimed)) and set(claimed) == payloads
    assert whole <= KINDS.keys()


def test_each_message_is_counted_as_often_as_it_is_long():
    for kind, descriptor in KINDS.items():
        content = {
            field.name: b"12345" for field in descriptor.fields if field.type == FieldDescriptor.TYPE_BYTES
        }
        flows = flows_of(Message(**{kind: content}), size=1000)
        assert sum(flows.values()) == 1000 and flows.keys() <= FLOWS.keys()


def test_a_base_enters_before_what_leaves_and_goes_the_other_way():
    names = list(FLOWS)
    for flow in FLOWS.values():
        assert (flow.cut is None) or names.index(flow.name) < len(AT_CUT)
        if flow.base is not None:
            base = FLOWS[flow.base]
            assert names.index(base.name) < names.index(flow.name)
            assert (base.direction, flow.direction, base.content) == ("up", "down", flow.content)


def test_colours_tell_flows_apart():
    assert len({flow.colour for flow in FLOWS.values()}) == len(FLOWS)
