"""From a finished run to a folder that other tools load."""

import shutil
from pathlib import Path

from splitcom.config import Config
from splitcom.errors import RunError
from splitcom.metrics.record import RunFolder
from splitcom.models import load_adapted, merge_adapter


def export_run(run: str | Path, out: str | Path, *, merge: bool = False) -> None:
    """Write the adapter of a finished run to `out`, or the base model merged with it; whole or not at all.

    Raises RunError where the run has not ended or `out` exists, AdapterError where the adapter does not fit the
    model that the run's configuration names, ModelError where that cannot be loaded.
    """
    folder, out = RunFolder(run), Path(out)
    if out.exists():
        raise RunError(f"{out}: exists already; choose another folder")
    config = Config.from_toml(folder.config_toml(), where=str(folder.path / "config.toml"))
    if folder.result() is None:
        raise RunError(f"{folder.path}: the run has not ended; continue it with `splitcom train --resume`")
    temporary = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        if merge:
            merge_adapter(folder.adapter, config.model.source, temporary, config.data.classes)
        else:
            # refuses one that does not fit
            load_adapted(config.model.source, folder.adapter, config.data.classes)
            shutil.copytree(folder.adapter, temporary)
        temporary.rename(out)
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
