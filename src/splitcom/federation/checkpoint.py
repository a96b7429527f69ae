"""A run's state on disk after a round, from which it continues to the same bits; whole or not there at all.

checkpoint/round-00007/
    state.json                              counts, clocks, held-out losses
    server.safetensors                      both adapters, the body's optimizer, the labels
    client-<name>.safetensors               the front's adapter, its optimizer
    references-<name>-<flow>-<side>.safetensors
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file, save_file

from splitcom.errors import RunError
from splitcom.federation.client import Client
from splitcom.federation.rounds import Federation
from splitcom.transports.link import VirtualClock


def save_checkpoint(
    folder: Path, federation: Federation, clients: Mapping[str, Client], clock: VirtualClock
) -> None:
    """Write the state after the present round and remove older ones; raises OSError and leaves the older ones."""
    final = folder / f"round-{federation.round:05d}"
    temporary = folder / f".{final.name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    tensors, scalars = federation.state()
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, temporary / "server.safetensors"
    )
    for name, client in clients.items():
        state = {key: tensor.contiguous() for key, tensor in client.state().items()}
        save_file(state, temporary / f"client-{name}.safetensors")
        for flow, references in client.trainer.references():
            references.save(temporary / f"references-{name}-{flow}-client.safetensors")
    for name, flow, references in federation.references():
        references.save(temporary / f"references-{name}-{flow}-server.safetensors")
    text = json.dumps(scalars | {"clock": clock.state()}, indent=1)
    (temporary / "state.json").write_text(text, encoding="utf-8")
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for other in folder.iterdir():
        if other != final:
            shutil.rmtree(other)


def latest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint below `folder`."""
    return max(folder.glob("round-*"), default=None)


def load_checkpoint(
    checkpoint: Path, federation: Federation, clients: Mapping[str, Client], clock: VirtualClock
) -> None:
    """Put a saved state in place; raises RunError where the checkpoint is damaged."""
    try:
        scalars = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
        federation.load_state(load_file(checkpoint / "server.safetensors"), scalars)
        for name, client in clients.items():
            client.load_state(load_file(checkpoint / f"client-{name}.safetensors"))
            for flow, references in client.trainer.references():
                references.load(checkpoint / f"references-{name}-{flow}-client.safetensors")
        for name, flow, references in federation.references():
            references.load(checkpoint / f"references-{name}-{flow}-server.safetensors")
        clock.load_state(scalars["clock"])
    except (OSError, KeyError, ValueError) as error:
        raise RunError(
            f"{checkpoint}: damaged checkpoint ({error}); start the run anew in another folder"
        ) from error
