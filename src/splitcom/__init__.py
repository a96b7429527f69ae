"""Split federated fine-tuning of language models with little traffic.

The names below are the public API. They are loaded when first used, so that `import splitcom` takes no time.
"""

from typing import TYPE_CHECKING, Any

from splitcom.lazy import lazy

if TYPE_CHECKING:
    from splitcom.config import Config
    from splitcom.errors import SplitComError
    from splitcom.methods.compare import compare
    from splitcom.methods.export import export_run
    from splitcom.methods.run import Run, train
    from splitcom.models import cut
    from splitcom.report import write_report

__all__ = ["Config", "Run", "SplitComError", "compare", "cut", "export_run", "train", "write_report"]

_HOME = {
    "Config": "splitcom.config",
    "Run": "splitcom.methods.run",
    "SplitComError": "splitcom.errors",
    "compare": "splitcom.methods.compare",
    "cut": "splitcom.models",
    "export_run": "splitcom.methods.export",
    "train": "splitcom.methods.run",
    "write_report": "splitcom.report",
}

_named, __dir__ = lazy(__name__, _HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("splitcom")
    return _named(name)
