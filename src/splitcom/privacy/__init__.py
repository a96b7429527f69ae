"""What makes private: noise, and what it is worth. Knows tensors and numbers, no client and no message."""

from splitcom.privacy.accounting import check_accountant, epsilon
from splitcom.privacy.gaussian import Gaussian, parse
from splitcom.privacy.response import Randomised, parse_response

__all__ = ["Gaussian", "Randomised", "check_accountant", "epsilon", "parse", "parse_response"]
