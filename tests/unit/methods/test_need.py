"""What a client is said to need: what is counted, and what lowers it."""

import pytest
import torch

from splitcom.codecs import parse
from splitcom.methods.need import need_of_client
from splitcom.models import cut, load_model
from splitcom.models.memory import peak_of, shapes_of


@pytest.fixture
def config(tiny_config):
    return tiny_config.override({"lora.targets": "all-linear", "training.batch_size": 4, "lora.rank": 2})


def test_weights_adapter_and_optimizer_are_those_of_the_parts(config):
    need = need_of_client(config, 8, 16)
    front = cut(load_model(config.model.source), 2).front
    assert need.weights == sum(p.nbytes for p in front.parameters())
    # two blocks, rank 2: four square modules of 32, three between 32 and 64
    trained = 2 * 2 * (4 * 64 + 3 * 96)
    assert need.optimizer == 8 * trained and need.adapter == 16 * trained
    assert parse(config.flows.activation_up.codec).needs_references
    assert need.references >= 8 * 16 * 32 * 2
    assert need.total == sum(vars(need).values())
    both = need_of_client(config.override({"model.tail_blocks": 1}), 8, 16)
    assert both.weights > need.weights and both.activations > need.activations
    halves = need_of_client(config.override({"model.dtype": "bfloat16"}), 8, 16)
    assert halves.weights * 2 == need.weights and halves.adapter == need.adapter


def test_a_base_of_16_bits_has_a_copy_of_its_blocks_if_labels_are_run_through_them(config):
    front = cut(load_model(config.model.source), 2).front
    blocks = sum(p.nbytes for block in front.blocks for p in block.parameters())
    halves = config.override({"model.dtype": "bfloat16"})
    guessing = halves.override({"preset": "quality"})
    assert need_of_client(guessing, 8, 16).weights == need_of_client(halves, 8, 16).weights + blocks
    u_shape = {"model.tail_blocks": 1}
    needs = [need_of_client(one.override(u_shape), 8, 16).weights for one in (guessing, halves)]
    assert needs[0] == needs[1]


def test_of_embeddings_that_stay_in_the_file_those_of_the_tokens_count(config, monkeypatch):
    rows = cut(load_model(config.model.source), 2).front.model.get_input_embeddings().weight
    all_rows = need_of_client(config, 8, 16).weights
    monkeypatch.setattr("splitcom.methods.need._MAPPED_AT_ONCE", 1)
    assert need_of_client(config, 2, 3).weights == all_rows - rows.nbytes + 6 * rows[0].nbytes
    other = config.override({"model.dtype": "bfloat16"})  # the file has it in float32
    assert need_of_client(other, 2, 3).weights == all_rows / 2


@pytest.mark.parametrize(
    "change",
    [{"training.accumulate": 4}, {"client.checkpointing": True}, {"training.optimizer": "adafactor"}],
)
def test_what_saves_memory_is_seen(config, change):
    plain, less = need_of_client(config, 8, 64), need_of_client(config.override(change), 8, 64)
    assert less.total - less.libraries < plain.total - plain.libraries


def test_the_peak_of_a_step_is_counted_to_the_byte(tiny_model):
    def step(part):
        first = torch.zeros(1000)  # 4,000 bytes
        second = first + 1
        del first
        third = second.view(10, 100)  # the same storage
        third.double()

    assert peak_of(shapes_of(tiny_model, "front", 1, 0, torch.float32), step) == 4_000 + 8_000
