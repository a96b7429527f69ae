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
    source: SourceText = (
        "generated"  # "generated", a file, a folder, or "team/name:configuration[split]" on the hub
    )
    domain: str | None = None  # of the generated data; None takes the one the bundled model has not seen
    format: Literal["auto", "columns", "chat"] = "auto"  # "auto" goes by the keys of the first row
    prompt: str = "{mr} =>"  # a template over the columns; "" trains on the whole response
    response: str = "text"  # the column that holds it; in classification the class of the prompt
    chat_template: TemplateText | None = (
        None  # a built-in one, a jinja file, or its text; None is the model's
    )
    learn: Learn = "assistant"  # of chat: the assistant's turns, the "last" of them, or "all" tokens
    labels: list[str] | None = None  # the classes, in the order of the logits; None takes those in the rows
    samples: PositiveInt | None = None  # of all clients together; None takes all (generated: 600)
    held_out: SourceText | None = None  # a second source for evaluation; None sets rows of `source` aside
    held_out_samples: PositiveInt = 100
    held_out_by: str | None = (
        None  # a column of `source`: rows that share its value are all held out, or none
    )
    max_tokens: Annotated[int, Field(ge=2, strict=True)] = 256

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
        if self.format == "chat" and self.task == "classification":
            raise ValueError(
                "data.format = 'chat': classification reads the text of data.prompt and the class in data.response; "
                "set data.format = 'columns'"
            )
        if self.held_out_by is not None and self.held_out is not None:
            raise ValueError(
                f"data.held_out_by = {self.held_out_by!r}: it sets rows of data.source aside; leave out data.held_out, "
                "or this"
            )
        return self

    @property
    def classes(self) -> list[str] | None:
        """The classes of classification, None for generation; ConfigError where they are not known."""
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
    alpha: PositiveFloat = 1.0  # concentration of the Dirichlet kinds; small is uneven
    column: str | None = None  # the label for dirichlet_label, the value for column
