"""How adapters become one; knows tensors, no conversations.

Read `aggregator` first, then one of the others.
"""

from splitcom.aggregation import fedadam, fedavg, fedavgm, median, trimmed_mean  # noqa: F401  (they register)
from splitcom.aggregation.aggregator import AGGREGATORS, Aggregator, parse, register
from splitcom.aggregation.fedavg import FedAvg
from splitcom.aggregation.staleness import Discount
from splitcom.aggregation.update import Update

__all__ = ["AGGREGATORS", "Aggregator", "Discount", "FedAvg", "Update", "parse", "register"]
