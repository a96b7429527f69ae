"""Complete recipes that can be run and compared, one file each, and what runs them."""

from splitcom.methods.centralised import CENTRALISED
from splitcom.methods.eco_lora import ECO_LORA
from splitcom.methods.fda_opt import FDA_OPT
from splitcom.methods.fedlora import FEDLORA
from splitcom.methods.ffa_lora import FFA_LORA
from splitcom.methods.frozen_front import FROZEN_FRONT
from splitcom.methods.method import Method
from splitcom.methods.splitcom import SPLITCOM
from splitcom.methods.splitlora import SPLITLORA

METHODS = {
    method.name: method
    for method in (SPLITLORA, FROZEN_FRONT, SPLITCOM, FEDLORA, FFA_LORA, FDA_OPT, ECO_LORA, CENTRALISED)
}

__all__ = ["METHODS", "Method"]
