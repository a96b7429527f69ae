"""What clients without weights are sent, and what a server without the front knows of it: the same bits."""

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from splitcom.models import Body, Front, Tail, adapter_state, add_lora, load_body, load_front, load_tail
from splitcom.models.front import outline, write_front

from .tiny_models import CASES, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


@pytest.mark.parametrize("case", CASES)
def test_a_front_from_its_own_folder_and_adapters_of_outlines_are_the_same_bits(case, tmp_path):
    tiny_model(case, CASES[case]).save_pretrained(tmp_path / "whole")
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE())).save_pretrained(tmp_path / "whole")
    write_front(tmp_path / "whole", 2, torch.float32, tmp_path / "front")
    write_front(tmp_path / "whole", 2, torch.float32, tmp_path / "ends", tail_blocks=1)
    sizes = [(tmp_path / kind / "model.safetensors").stat().st_size for kind in ("front", "whole")]
    assert sizes[0] < sizes[1]
    own, tail = load_front(tmp_path / "whole", 2), load_tail(tmp_path / "whole", 1)
    for sent, held in (
        (load_front(tmp_path / "front", 2), own),
        (load_front(tmp_path / "ends", 2), own),
        (load_tail(tmp_path / "ends", 1), tail),
    ):
        theirs, ours = sent.model.state_dict(), held.model.state_dict()
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    for kind, real, tail_blocks in (
        (Front, own, 0),
        (Body, load_body(tmp_path / "whole", 2), 0),
        (Tail, tail, 1),
    ):
        outlined = outline(tmp_path / "whole", kind, 2, tail_blocks)
        for part in (outlined, real):
            add_lora(part, 4, seed=3)
        expected = adapter_state(real)
        assert list(adapter_state(outlined)) == list(expected)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in adapter_state(outlined).items())


def test_weights_of_16_bits_are_sent_as_such(tmp_path):
    write_front("bundled", 2, torch.float32, tmp_path / "front")
    parameters = sum(p.numel() for p in load_front("bundled", 2).parameters())
    assert (tmp_path / "front" / "model.safetensors").stat().st_size < 2.1 * parameters
