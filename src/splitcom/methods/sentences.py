"""A few sentences of the whole model before and after training, for people to look at."""

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from splitcom.config import Config
from splitcom.data import Sample, encode_prompt
from splitcom.models import load_adapted, load_tokenizer


@torch.no_grad()
def generate_pairs(config: Config, adapter: Path, samples: Sequence[Sample]) -> list[dict[str, str]]:
    """Greedy continuations of the first held-out prompts: prompt, reference, before, after."""
    tuned = load_adapted(config.model.source, adapter).eval()
    tokenizer = load_tokenizer(config.model.source)
    pairs = []
    for sample in samples[: config.evaluation.generate]:
        prompt = encode_prompt(sample.row.prompt, tokenizer)

        with tuned.disable_adapter():
            before = _continuation(tuned, tokenizer, prompt)
        pairs.append(
            {
                "prompt": sample.row.prompt,
                "reference": sample.row.response,
                "before": before,
                "after": _continuation(tuned, tokenizer, prompt),
            }
        )
    return pairs


def _continuation(model: PeftModel, tokenizer: PreTrainedTokenizerBase, prompt: torch.Tensor) -> str:
    ids = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=64,
        do_sample=False,
        pad_token_id=tokenizer.eos_token_id,
    )
    return str(tokenizer.decode(ids[0, prompt.shape[1] :], skip_special_tokens=True)).strip()
