"""How many tokens a model says it takes, against what it does with them."""

from pathlib import Path

import pytest
import torch
from transformers import PreTrainedConfig, PreTrainedModel

from splitcom.models import limits_of
from splitcom.models.load import model_class

from .tiny_models import CASES, CLASSIFIERS, OTHER_CASES, VOCAB_SIZE, tiny_config

POSITIONS = 24
TABLES = {
    **dict.fromkeys(["gpt2", "gpt_neo", "gptj", "opt", "mpt", "biogpt", "codegen", "ctrl"], POSITIONS),
    **dict.fromkeys(["gpt_bigcode", "openai-gpt"], POSITIONS),
    "roberta": POSITIONS - 1,  # the padding's number is 0 here
}
ENCODERS = {
    **dict.fromkeys(["bert", "deberta-v2", "rembert", "distilbert", "electra"], POSITIONS),
    **dict.fromkeys(["roberta", "xlm-roberta"], POSITIONS - 1),
    "mpnet": POSITIONS - 2,  # the padding's number is always 1
}
UNBOUNDED = [
    "bloom",
    "falcon:alibi",
    "mamba",
    "xglm",
    "llama",
    "llama:tied_dynamic_rope",
    "qwen2",
    "gpt_neox",
    "phi",
]


def short_model(
    case: str, labels: list[str] | None, folder: Path
) -> tuple[PreTrainedConfig, PreTrainedModel]:
    config = tiny_config(case, (CASES | OTHER_CASES | CLASSIFIERS)[case])
    for name in ("max_position_embeddings", "max_seq_len"):
        if hasattr(config, name):
            setattr(config, name, POSITIONS)
    config.save_pretrained(folder)
    return config, model_class(config, labels)._from_config(config).eval()


def takes(model: PreTrainedModel, num_tokens: int) -> bool:
    ids = torch.arange(num_tokens)[None] % 50 + 3
    try:
        with torch.no_grad():
            model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except (IndexError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize(
    ("case", "wanted", "labels"),
    [(case, wanted, None) for case, wanted in TABLES.items()]
    + [(case, wanted, ["a", "b"]) for case, wanted in ENCODERS.items()],
)
def test_a_table_of_positions_ends_where_the_model_fails(case, wanted, labels, tmp_path):
    _, model = short_model(case, labels, tmp_path)
    limits = limits_of(tmp_path, labels)
    assert (limits.positions, limits.is_table, limits.vocab_size) == (wanted, True, VOCAB_SIZE)
    assert takes(model, wanted) and not takes(model, wanted + 1)


@pytest.mark.parametrize("case", UNBOUNDED)
def test_other_models_take_longer_texts(case, tmp_path):
    _, model = short_model(case, None, tmp_path)
    assert not limits_of(tmp_path).is_table
    assert takes(model, 2 * POSITIONS)
