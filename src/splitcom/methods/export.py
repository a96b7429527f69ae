"""From a finished run to a folder that other tools load."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from splitcom.durable import new_folder
from splitcom.errors import RunError
from splitcom.methods.settings import settings_of
from splitcom.metrics.record import RunFolder
from splitcom.models import check_adapter, copy_adapter, merge_adapter


def export_run(
    run: str | Path,
    out: str | Path,
    *,
    merge: bool = False,
    dtype: str = "float32",
    changes: Mapping[str, Any] | None = None,
) -> None:
    """Write the adapter of a finished run into the new folder `out`; with `merge`, the base model merged with it.

    The folder appears whole or not at all. `PeftModel.from_pretrained` loads an adapter, `from_pretrained` of
    transformers a merged model.

    Args:
        run: the run's folder.
        out: a folder that does not exist.
        merge: write the whole model, in the number format of its base.
        dtype: number format of the adapter, such as "bfloat16".
        changes: to the run's settings, if the model has been moved: {"model.source": "/new/place"}.

    Raises RunError if the run has not ended or `out` exists, AdapterError if the adapter does not fit the
    model that the run's configuration names, ModelError if that cannot be loaded.
    """
    folder, out = RunFolder(run), Path(out)
    if merge and dtype != "float32":
        raise RunError(
            f"--dtype {dtype}: a merged model keeps the number format of its base; leave one of the two out"
        )
    if out.exists():
        raise RunError(f"{out}: exists already; choose another folder")
    config = settings_of(folder, changes, needs=("model.source",))
    adapter, source, labels = folder.ended_adapter(), config.model.source, config.data.classes
    try:
        with new_folder(out) as partial:
            if merge:
                merge_adapter(adapter, source, partial, labels)
            else:
                check_adapter(source, adapter, labels)
                copy_adapter(adapter, source, partial, getattr(torch, dtype))
    except OSError as error:
        raise RunError(f"{out}: cannot be written: {error.strerror or error}") from error
