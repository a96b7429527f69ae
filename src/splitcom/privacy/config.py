"""The text in settings that names a mechanism."""

from functools import partial
from typing import Annotated

from pydantic import AfterValidator

from splitcom.privacy.gaussian import parse
from splitcom.settings import canonical

MechanismText = Annotated[str, AfterValidator(partial(canonical, parse))]
