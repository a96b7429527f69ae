"""The settings of a run folder, which may have been moved, and so may the model and the data that they name."""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from splitcom.config import Config
from splitcom.durable import make_folder, write_atomic
from splitcom.errors import ConfigError, RunError
from splitcom.metrics.record import RunFolder

PLACES = ("model.source", "data.source", "data.held_out")
"""Settings that say where something is; what is there is compared with what a run began with."""


def settings_of(
    folder: RunFolder, changes: Mapping[str, Any] | None = None, needs: Sequence[str] = PLACES
) -> Config:
    """The configuration of a run folder, with `changes` to it; `needs` are the places that are about to be read.

    Raises RunError if there is no run, and ConfigError if a setting is wrong or something is not where it was.
    """
    where = folder.path / "config.toml"
    config = Config.from_toml(folder.config_toml(), str(where), changes)
    for key in needs:
        place = attrgetter(key)(config)
        if place is not None and Path(place).is_absolute() and not _is_there(place):
            raise ConfigError(
                f"{where}: {key} = {place!r}: it is not there any more; say where it is now with --set {key}=PLACE"
            )
    return config


def _is_there(place: str) -> bool:
    return Path(place).exists() or Path(place.partition("[")[0]).exists()  # the folder of "folder[test]"


def check_model(folder: RunFolder, source: str, fingerprint: str) -> None:
    """Raise RunError if a run that goes on would do so with other weights than it began with."""
    path = folder.checkpoints / "model"
    if not path.exists():
        make_folder(folder.checkpoints, private=True)
        write_atomic(path, fingerprint.encode(), private=True)
    elif path.read_text(encoding="ascii", errors="replace") != fingerprint:
        raise RunError(
            f"{folder.path}: the model {source} is another one than this run began with; name that one in "
            "model.source, or start a new run with another --out"
        )
