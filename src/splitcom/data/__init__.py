"""Text data: rows, samples, batches, partitions and a generator; knows no model and no configuration."""

from splitcom.data.classes import class_indices, classes_in, encode_classes
from splitcom.data.encode import (
    Batch,
    Encoded,
    EncodingReport,
    Sample,
    batches,
    encode,
    encode_prompt,
    unknown_marks,
)
from splitcom.data.generate import HELD_OUT_DOMAIN, domains, generate
from splitcom.data.load import DEFAULT_TEMPLATE, GENERATED, Row, columns_of, load_rows
from splitcom.data.partition import ClientSummary, Partition, partition
from splitcom.data.sources import Source, find_source

__all__ = [
    "DEFAULT_TEMPLATE",
    "GENERATED",
    "HELD_OUT_DOMAIN",
    "Batch",
    "ClientSummary",
    "Encoded",
    "EncodingReport",
    "Partition",
    "Row",
    "Sample",
    "Source",
    "batches",
    "class_indices",
    "classes_in",
    "columns_of",
    "domains",
    "encode",
    "encode_classes",
    "encode_prompt",
    "find_source",
    "generate",
    "load_rows",
    "partition",
    "unknown_marks",
]
