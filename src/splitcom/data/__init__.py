"""Text data: rows, samples, batches, partitions and a generator; knows no model and no configuration."""

from splitcom.data.chat import Conversation, Message, asked_by
from splitcom.data.classes import class_indices, classes_in, encode_classes
from splitcom.data.encode import (
    IGNORED,
    Batch,
    Encoded,
    EncodingReport,
    Sample,
    batches,
    encode,
    encode_prompt,
    encode_tokens,
    prefixed,
    unknown_marks,
)
from splitcom.data.generate import HELD_OUT_DOMAIN, domains, generate
from splitcom.data.load import DEFAULT_TEMPLATE, GENERATED, Row, column_value, load_rows, recognised
from splitcom.data.partition import ClientSummary, Partition, partition, set_aside
from splitcom.data.prompt import read_prompt
from splitcom.data.sources import Source, find_source
from splitcom.data.template import BUILT_IN, ChatTemplate, encode_chats, is_template, template_text

__all__ = [
    "BUILT_IN",
    "DEFAULT_TEMPLATE",
    "GENERATED",
    "HELD_OUT_DOMAIN",
    "IGNORED",
    "Batch",
    "ChatTemplate",
    "ClientSummary",
    "Conversation",
    "Encoded",
    "EncodingReport",
    "Message",
    "Partition",
    "Row",
    "Sample",
    "Source",
    "asked_by",
    "batches",
    "class_indices",
    "classes_in",
    "column_value",
    "domains",
    "encode",
    "encode_chats",
    "encode_classes",
    "encode_prompt",
    "encode_tokens",
    "find_source",
    "generate",
    "is_template",
    "load_rows",
    "partition",
    "prefixed",
    "read_prompt",
    "recognised",
    "set_aside",
    "template_text",
    "unknown_marks",
]
