"""The text in settings that names an aggregator."""

from functools import partial
from typing import Annotated

from pydantic import AfterValidator

from splitcom.aggregation.aggregator import parse
from splitcom.settings import canonical

AggregatorText = Annotated[str, AfterValidator(partial(canonical, parse))]
