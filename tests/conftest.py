"""A tiny model, made here, and where real models and data are."""

import os
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from splitcom.config import Config
from splitcom.data import HELD_OUT_DOMAIN, generate

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real models and data; skips where there is none."""
    folder = Path(os.environ.get("SPLITCOM_ASSETS", Path(__file__).parents[1] / ".." / "shared" / "assets"))
    if not folder.is_dir():
        pytest.skip(f"no real models and data at {folder}; set SPLITCOM_ASSETS to their folder")
    return folder.resolve()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of four blocks with random weights, and a tokenizer for the generated data."""
    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [f"{row['mr']} {row['text']}" for row in generate(HELD_OUT_DOMAIN, 100)]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=300,
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


@pytest.fixture
def tiny_config(tiny_model: Path) -> Config:
    """Three clients of unequal numbers of batches, two rounds, a few seconds."""
    return Config().override(
        {
            "model.source": str(tiny_model),
            "model.device": "cpu",
            "data.samples": 25,
            "data.held_out_samples": 7,
            "training.rounds": 2,
            "training.batch_size": 4,
            "training.lr": 1e-2,
            "evaluation.batch_size": 4,
            "evaluation.generate": 0,
        }
    )
