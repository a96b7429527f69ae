"""Packages that add codecs, controllers, aggregators or methods: loaded when a name is asked for that nobody has.

A package names its module in its own `pyproject.toml`, and the module registers what it has when it is imported:

    [project.entry-points.splitcom]
    mine = "my_package.codecs"
"""

from functools import cache
from importlib.metadata import entry_points

from splitcom.errors import PluginError


@cache
def load_plugins() -> tuple[str, ...]:
    """Import all of them once, and return their names; raises PluginError if one fails."""
    found = entry_points(group="splitcom")
    for point in found:
        try:
            point.load()
        except Exception as error:
            package = "" if point.dist is None else f" of {point.dist.name} {point.dist.version}"
            raise PluginError(
                f"the plug-in {point.name} ({point.value}){package} cannot be loaded: {error!r}; mend it, or uninstall "
                "that package"
            ) from error
    return tuple(found.names)
