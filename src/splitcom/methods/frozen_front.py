"""The frozen front: only the body learns, so an activation never changes and is sent once; no gradient comes back.

The baseline that every saving must be compared with: it is cheap, and loses what the front would have learnt.
"""

from splitcom.config import Config
from splitcom.flows import AT_CUT, FLOWS
from splitcom.methods.method import Method, without_controllers


def _configure(config: Config) -> Config:
    once = "temporal(0.99) > fp16"  # a batch's padding changes the last bits of an activation, hence not exactly 1
    changes = {"lora.train_front": False, "flows.activation_up.codec": once}
    if config.model.tail_blocks:  # body and tail learn, so what passes between them changes
        changes |= {f"flows.{flow}.codec": "fp16" for flow in AT_CUT if FLOWS[flow].cut == "tail"}
    return without_controllers(config).override(changes)


FROZEN_FRONT = Method("frozen_front", "split, front not trained, fp16 activations sent once", _configure)
