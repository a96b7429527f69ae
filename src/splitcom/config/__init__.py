"""One tree of settings, each section beside its owner or here; TOML in, TOML out; knows not how anything is done."""

from splitcom.codecs.config import ReferencesConfig
from splitcom.config.client import ClientConfig
from splitcom.config.clients import ClientsConfig, GroupConfig, OwnConfig
from splitcom.config.comparison import ComparisonConfig, VariantConfig
from splitcom.config.config import SHARED, Config
from splitcom.config.engine import EngineConfig
from splitcom.config.evaluation import EvaluationConfig
from splitcom.config.federation import AsynchronousConfig, CutsConfig, FederationConfig
from splitcom.config.flows import FlowConfig, FlowsConfig
from splitcom.config.links import LinkConfig, LinksConfig
from splitcom.config.training import TrainingConfig
from splitcom.control.config import ControlConfig
from splitcom.data.config import DataConfig, PartitionConfig
from splitcom.models.config import LoraConfig, ModelConfig

__all__ = [
    "SHARED",
    "AsynchronousConfig",
    "ClientConfig",
    "ClientsConfig",
    "ComparisonConfig",
    "Config",
    "ControlConfig",
    "CutsConfig",
    "DataConfig",
    "EngineConfig",
    "EvaluationConfig",
    "FederationConfig",
    "FlowConfig",
    "FlowsConfig",
    "GroupConfig",
    "LinkConfig",
    "LinksConfig",
    "LoraConfig",
    "ModelConfig",
    "OwnConfig",
    "PartitionConfig",
    "ReferencesConfig",
    "TrainingConfig",
    "VariantConfig",
]
