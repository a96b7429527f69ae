"""What an honest but curious server can tell of the text behind hidden states; for one's own runs only."""

from splitcom.audit.dictionary import TOP, recovered
from splitcom.audit.inverter import Inverter
from splitcom.audit.labels import recovered_labels
from splitcom.audit.membership import told_apart
from splitcom.audit.presence import occurring, share_named
from splitcom.audit.scores import Score, score
from splitcom.audit.sizes import lengths_told

__all__ = [
    "TOP",
    "Inverter",
    "Score",
    "lengths_told",
    "occurring",
    "recovered",
    "recovered_labels",
    "score",
    "share_named",
    "told_apart",
]
