"""The settings of a run folder, which may have been moved, and so may the model and the data that they name."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from splitcom.config import Config
from splitcom.durable import make_folder, write_atomic
from splitcom.errors import ConfigError, RunError, SplitComError
from splitcom.metrics.record import RunFolder
from splitcom.models import fingerprint

_LOG = logging.getLogger(__name__)
PLACES = ("model.source", "data.source", "data.held_out")
"""Settings that say where something is; what is there is compared with what a run began with."""


def settings_of(
    folder: RunFolder, changes: Mapping[str, Any] | None = None, needs: Sequence[str] = PLACES
) -> Config:
    """The configuration of a run folder, with `changes` to it; `needs` are the places that are about to be read.

    What has been moved together with the run is found by the end of its old path, in the run folder or up to two
    folders above it; a model only if its weights are those that the run began with. What `changes` name is looked for
    nowhere else. Raises RunError if there is no run, and ConfigError if a setting is wrong or something is neither
    where it was nor there.
    """
    where = folder.path / "config.toml"
    config = Config.from_toml(folder.config_toml(), str(where), changes)
    for key in (key for key in needs if key not in (changes or {})):
        place = attrgetter(key)(config)
        if place is not None and Path(place).is_absolute() and not _is_there(place):
            found = _moved(folder, key, place, where)
            _LOG.warning("%s = %r is not there any more; %s is taken for it", key, place, found)
            config = config.override({key: found})
    return config


def _moved(folder: RunFolder, key: str, place: str, where: Path) -> str:
    """Where something is now that was at `place`; raises ConfigError if that cannot be told."""
    remedy = f"say where it is now with --set {key}=PLACE"
    others = []
    for found in _ends_of(folder.path.resolve(), place):
        if key != "model.source" or _is_model_of(folder, found):
            return found
        others.append(found)
    if others:
        raise ConfigError(
            f"{where}: {key} = {place!r}: it is not there any more, and {others[0]} has other weights than this run "
            f"began with; {remedy}"
        )
    raise ConfigError(f"{where}: {key} = {place!r}: it is not there any more; {remedy}")


def _ends_of(run: Path, place: str) -> Iterator[str]:
    """What there is in or beside a run under an end of the path `place`, the longest end first."""
    parts = Path(place).parts[1:]
    for first in range(len(parts)):
        for above in (run, *run.parents[:2]):
            if _is_there(found := str(above.joinpath(*parts[first:]))):
                yield found


def _is_model_of(folder: RunFolder, source: str) -> bool:
    """Whether these are the weights that a run began with, as far as it is known."""
    path = folder.checkpoints / "model"
    try:
        return not path.exists() or path.read_text(encoding="ascii") == fingerprint(source)
    except (OSError, ValueError, SplitComError):  # no model
        return False


def _is_there(place: str) -> bool:
    return Path(place).exists() or Path(place.partition("[")[0]).exists()  # the folder of "folder[test]"


def check_model(folder: RunFolder, source: str, digest: str) -> None:
    """Raise RunError if a run that goes on would do so with other weights than it began with; writes nothing."""
    path = folder.checkpoints / "model"
    if path.exists() and path.read_text(encoding="ascii", errors="replace") != digest:
        raise RunError(
            f"{folder.path}: the model {source} is another one than this run began with; name that one in "
            "model.source, or start a new run with another --out"
        )


def begin(folder: RunFolder, config: Config, digest: str) -> None:
    """Write the settings of a run that begins or goes on, and the fingerprint of its model.

    Not before all that could refuse it has been checked: what is refused must leave the folder as it was.
    """
    folder.begin(config.to_toml())
    path = folder.checkpoints / "model"
    if not path.exists():
        make_folder(folder.checkpoints, private=True)
        write_atomic(path, digest.encode(), private=True)
