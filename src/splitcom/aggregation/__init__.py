"""How adapters become one; knows tensors, no conversations.

Read `aggregator` first, then one of the others.
"""

from splitcom.aggregation import (  # noqa: F401  (they register)
    dp_fedavg,
    fedadagrad,
    fedadam,
    fedavg,
    fedavgm,
    fedex,
    fedyogi,
    krum,
    median,
    multi_krum,
    norm_clip,
    trimmed_mean,
)
from splitcom.aggregation.aggregator import AGGREGATORS, Aggregator, parse, register
from splitcom.aggregation.dp_fedavg import DpFedAvg
from splitcom.aggregation.fedavg import FedAvg
from splitcom.aggregation.staleness import Discount
from splitcom.aggregation.update import Update

__all__ = ["AGGREGATORS", "Aggregator", "Discount", "DpFedAvg", "FedAvg", "Update", "parse", "register"]
