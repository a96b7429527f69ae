"""The settings of references, and the text that names a codec."""

from functools import partial
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, model_validator

from splitcom.codecs.spec import parse
from splitcom.settings import PositiveFloat, Section, canonical

CodecText = Annotated[str, AfterValidator(partial(canonical, parse))]


class ReferencesConfig(Section):
    """Where references live."""

    store: Literal["memory", "file"] = "memory"
    precision: Literal["fp32", "fp16", "bf16"] = "fp16"
    # per client, flow and side, of whole references, also where a side keeps projections; "file" needs one
    limit_mb: PositiveFloat | None = None
    keep: bool = False  # at a server whose run has ended: also labels, for a run that is made longer later

    @model_validator(mode="after")
    def _file_is_bounded(self) -> Self:
        if self.store == "file" and self.limit_mb is None:
            raise ValueError("limit_mb is needed where store is 'file', such as limit_mb = 1000")
        return self
