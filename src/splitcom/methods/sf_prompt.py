"""SFPrompt (2407.17533): clients learn a soft prompt and the tail, first by themselves, and send the hardest samples.

What is published is what is set here; `docs/methods.md` says what is chosen. A setting that is not at its default is
left as it is, so that variants can be compared.
"""

from splitcom.config import Config
from splitcom.flows import ADAPTERS
from splitcom.methods.method import Method, by_default


def _configure(config: Config) -> Config:
    ends = config.override({"lora.train_front": False})
    ends = by_default(ends, {"model.tail_blocks": 1, "lora.prompt_tokens": 5})
    changes = {"lora.train_body": False, "client.bypass_epochs": 10, "client.keep": 0.5}
    codecs = [*(f"flows.{flow}.codec" for flow in (*ends.cut_flows, *ADAPTERS)), "evaluation.codec"]
    return by_default(ends, changes | dict.fromkeys(codecs, "fp16"))


SF_PROMPT = Method("sf_prompt", "U-shape, soft prompt and tail learn, the hardest samples sent", _configure)
