"""A model and tokenizer that are small enough to be made anew by every test run."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from splitcom.data import HELD_OUT_DOMAIN, generate

STILL = {"training.lr": 1e-36, "training.weight_decay": 0.0, "training.clip_norm": 1e-30}
"""With these no step moves a number of fp32."""


def write_tiny_model(folder: Path, vocabulary: int = 500) -> Path:
    """A Llama of four blocks with random weights, and a tokenizer for the generated data.

    With a `vocabulary` of 300 texts are twice as long, and their training takes longer.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [f"{row['mr']} {row['text']}" for row in generate(HELD_OUT_DOMAIN, 100)]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=["<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(
        folder
    )
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer.get_vocab()),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=256,
            bos_token_id=0,
            eos_token_id=1,
        )
    ).save_pretrained(folder)
    return folder
