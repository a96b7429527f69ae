"""The text in settings that names a mechanism."""

from functools import partial
from typing import Annotated

from pydantic import AfterValidator

from splitcom.privacy.gaussian import parse
from splitcom.privacy.response import parse_response
from splitcom.settings import canonical

MechanismText = Annotated[str, AfterValidator(partial(canonical, parse))]
ResponseText = Annotated[str, AfterValidator(partial(canonical, parse_response))]
