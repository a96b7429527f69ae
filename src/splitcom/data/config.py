"""The settings of data; knows no row."""

from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from splitcom.data.load import as_label
from splitcom.data.template import BUILT_IN, Learn
from splitcom.errors import ConfigError
from splitcom.settings import Place, PositiveFloat, PositiveInt, Section

SourceText = Annotated[str, Place(("generated",))]
TemplateText = Annotated[str, Place(BUILT_IN, holds_text=True)]


class DataConfig(Section):
    """Where the text comes from and how a row becomes prompt and response."""

    task: Literal["generation", "classification"] = "generation"
    """Whether the model learns to write text or to tell classes."""
    source: SourceText = "generated"
    """The rows: "generated", a file, a folder, or "team/name:configuration[split]" on the hub."""
    domain: str | None = None
    """What the generated data are about; None takes what the bundled model has not seen."""
    format: Literal["auto", "columns", "chat", "tokens"] = "auto"
    """Whether rows have columns, are conversations, or hold token ids (`input_ids`, `labels`); "auto" looks at the
    first row's keys.
    """
    prompt: str = "{mr} =>"
    """A template over the columns, such as "{question} =>"; "" trains on the whole response."""
    response: str = "text"
    """The column of the response; in classification, of the class."""
    chat_template: TemplateText | None = None
    """A built-in chat template, a jinja file, or its text; None is the model's own."""
    learn: Learn = "assistant"
    """What is learnt of a conversation: the "assistant"'s turns, its "last" one, or "all" tokens."""
    labels: list[str] | None = None
    """The classes, in the order of the logits; None takes those in the rows."""
    samples: PositiveInt | None = None
    """How many samples all clients have together; None takes all rows, and 600 of generated data."""
    held_out: SourceText | None = None
    """A second source, to evaluate on; None sets rows of `source` aside."""
    held_out_samples: PositiveInt = 100
    """How many held-out samples there are."""
    held_out_by: str | None = None
    """A column of `source`: rows that share its value are all held out, or none of them."""
    max_tokens: Annotated[int, Field(ge=2, le=2**31 - 1, strict=True)] = 256
    """The longest sample in tokens; a longer one is cut."""

    @field_validator("labels")
    @classmethod
    def _are_classes(cls, labels: list[str] | None, info: ValidationInfo) -> list[str] | None:
        if labels is not None and info.data.get("task") != "classification":
            raise ValueError("these are for data.task = 'classification'; set that, or leave them out")
        if labels is None:
            return None
        labels = [as_label(label) for label in labels]
        if len(set(labels)) < max(len(labels), 2) or "" in labels:
            raise ValueError("expected two classes or more, each once; spaces around them mean nothing")
        return labels

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.format in ("chat", "tokens") and self.task == "classification":
            raise ValueError(
                f"data.format = {self.format!r}: classification reads the text of data.prompt and the class in "
                "data.response; set data.format = 'columns'"
            )
        if self.held_out_by is not None and self.held_out is not None:
            raise ValueError(
                f"data.held_out_by = {self.held_out_by!r}: it sets rows of data.source aside; leave out data.held_out, "
                "or this"
            )
        return self

    @property
    def classes(self) -> list[str] | None:
        """The classes of classification, None for generation; ConfigError if they are not known."""
        if self.task == "generation":
            return None
        if self.labels is None:
            raise ConfigError(
                "data.labels is missing: list the classes here, such as labels = ['negative', 'positive'], since the "
                "rows that hold them are not at this party"
            )
        return self.labels


class PartitionConfig(Section):
    """Which client gets which rows."""

    kind: Literal["iid", "dirichlet_label", "dirichlet_length", "column"] = "iid"
    """How rows are given to clients: "iid" (evenly), "dirichlet_label" or "dirichlet_length" (unevenly, by
    label or by length), or "column" (a column names the client).
    """
    alpha: PositiveFloat = 1.0
    """Concentration of the Dirichlet kinds; the smaller, the more uneven."""
    column: str | None = None
    """The label's column for dirichlet_label; for "column" the one whose values are clients."""
