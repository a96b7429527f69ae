"""Complete recipes that can be run and compared, one file each, and what runs them."""

from splitcom.methods.aq_sgd import AQ_SGD
from splitcom.methods.centralised import CENTRALISED
from splitcom.methods.eco_lora import ECO_LORA
from splitcom.methods.fda_opt import FDA_OPT
from splitcom.methods.fedex_lora import FEDEX_LORA
from splitcom.methods.fedlora import FEDLORA
from splitcom.methods.fedsa_lora import FEDSA_LORA
from splitcom.methods.ffa_lora import FFA_LORA
from splitcom.methods.frozen_front import FROZEN_FRONT
from splitcom.methods.method import Method
from splitcom.methods.res_bm import RES_BM
from splitcom.methods.sf_prompt import SF_PROMPT
from splitcom.methods.split_ft import SPLIT_FT
from splitcom.methods.split_lite import SPLIT_LITE
from splitcom.methods.splitcom import SPLITCOM
from splitcom.methods.splitlora import SPLITLORA

_SPLIT = (SPLITLORA, FROZEN_FRONT, SPLITCOM, SPLIT_FT, SPLIT_LITE, AQ_SGD, RES_BM, SF_PROMPT)
_WHOLE = (FEDLORA, FFA_LORA, FEDSA_LORA, FEDEX_LORA, FDA_OPT, ECO_LORA)
METHODS = {method.name: method for method in (*_SPLIT, *_WHOLE, CENTRALISED)}

__all__ = ["METHODS", "Method"]
