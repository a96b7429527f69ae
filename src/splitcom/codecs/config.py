"""The settings of references, and the text that names a codec."""

from functools import partial
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, model_validator

from splitcom.codecs.spec import parse
from splitcom.settings import PositiveFloat, Section, canonical

CodecText = Annotated[str, AfterValidator(partial(canonical, parse))]


class ReferencesConfig(Section):
    """References: what both ends keep of each sample, so that only what has changed is sent."""

    store: Literal["memory", "file"] = "memory"
    """Where references are kept: in "memory", or in a "file" that is as large as `limit_mb`."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp16"
    """The number format in which references are stored."""
    limit_mb: PositiveFloat | None = None
    """The largest size per client, flow and side in MB, counted as if all references were kept whole; the
    store "file" needs one. None: any.
    """
    keep: bool = False
    """Whether a server keeps references and labels when its run has ended, so that the run can be made longer
    later.
    """

    @model_validator(mode="after")
    def _file_is_bounded(self) -> Self:
        if self.store == "file" and self.limit_mb is None:
            raise ValueError("limit_mb is needed where store is 'file', such as limit_mb = 1000")
        return self
