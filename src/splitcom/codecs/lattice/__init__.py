"""Tokens as integers in a basis that both ends learn: everything is predicted, and coded by adaptive statistics.

Read `codec` first; `parameters` is what its text says.
"""

from splitcom.codecs.lattice.codec import LatticeCodec
from splitcom.codecs.lattice.parameters import Klt, Parameter, Predict, Range, Uniform

__all__ = ["Klt", "LatticeCodec", "Parameter", "Predict", "Range", "Uniform"]
