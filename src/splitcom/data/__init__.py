"""Text data: rows, samples, batches, partitions and a generator; knows no model and no configuration."""

from splitcom.data.batches import Batch, Batches, batches
from splitcom.data.chat import Conversation, Message, asked_by
from splitcom.data.classes import check_classes, classes_in, encode_classes
from splitcom.data.encode import encode, encode_prompt, encode_tokens, prefixed, unknown_marks
from splitcom.data.generate import HELD_OUT_DOMAIN, domains, generate
from splitcom.data.load import (
    DEFAULT_TEMPLATE,
    GENERATED,
    Progress,
    Row,
    StoredRows,
    column_value,
    first_rows,
    read_rows,
    recognised,
    told,
)
from splitcom.data.partition import ClientSummary, Partition, partition, set_aside
from splitcom.data.prompt import read_prompt
from splitcom.data.samples import IGNORED, Encoded, EncodingReport, Sample, Samples, lengths_of
from splitcom.data.sources import Source, find_source
from splitcom.data.store import Picked, shuffled_places, taken
from splitcom.data.template import BUILT_IN, ChatTemplate, encode_chats, is_template, template_text

__all__ = [
    "BUILT_IN",
    "DEFAULT_TEMPLATE",
    "GENERATED",
    "HELD_OUT_DOMAIN",
    "IGNORED",
    "Batch",
    "Batches",
    "ChatTemplate",
    "ClientSummary",
    "Conversation",
    "Encoded",
    "EncodingReport",
    "Message",
    "Partition",
    "Picked",
    "Progress",
    "Row",
    "Sample",
    "Samples",
    "Source",
    "StoredRows",
    "asked_by",
    "batches",
    "check_classes",
    "classes_in",
    "column_value",
    "domains",
    "encode",
    "encode_chats",
    "encode_classes",
    "encode_prompt",
    "encode_tokens",
    "find_source",
    "first_rows",
    "generate",
    "is_template",
    "lengths_of",
    "partition",
    "prefixed",
    "read_prompt",
    "read_rows",
    "recognised",
    "set_aside",
    "shuffled_places",
    "taken",
    "template_text",
    "told",
    "unknown_marks",
]
