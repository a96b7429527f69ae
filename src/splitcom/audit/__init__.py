"""What an honest but curious server can tell of the text behind hidden states; for one's own runs only."""

from splitcom.audit.dictionary import recovered
from splitcom.audit.inverter import Inverter
from splitcom.audit.scores import Score, score

__all__ = ["Inverter", "Score", "recovered", "score"]
