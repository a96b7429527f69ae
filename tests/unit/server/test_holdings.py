import torch

from splitcom.aggregation import Update
from splitcom.config import Config
from splitcom.server.holdings import Common, Holding, Holdings

BLOCKS = {f"h.{index}.lora_A.weight": index for index in range(4)}
CONFIG = Config().override(
    {"clients": {"client-0": {"cut": 1}, "client-1": {"cut": 4, "rank": 2}}, "model.cut": 3, "lora.rank": 4}
)


class Engine:
    """Holds the blocks from 1 on, to block 5."""

    def __init__(self) -> None:
        self.held = {f"h.{index}.lora_A.weight": torch.full((4, 2), float(index)) for index in range(1, 6)}

    def adapter(self):
        return dict(self.held)

    def load_adapter(self, state):
        assert state.keys() == self.held.keys()
        self.held = dict(state)


def test_the_servers_own_of_a_block_weighs_by_the_labels_of_those_who_have_trained_it_there():
    common = Common(Holdings(CONFIG, BLOCKS), CONFIG, Engine())
    updates = [Update({}, number, 7, client=f"client-{index}") for index, number in enumerate((10, 20, 40))]
    found = common.updates(updates)
    # blocks 1 and 2 have been trained there by client-0 alone, block 3 also by client-2, whose cut is 3
    assert [(sorted(update.adapter), update.num_labels) for update in found] == [
        (["h.1.lora_A.weight", "h.2.lora_A.weight"], 10),
        (["h.3.lora_A.weight"], 50),
    ]
    assert not common.updates(updates[1:2])  # who has a block in its front trains it nowhere else


def test_what_comes_of_a_block_takes_its_place_at_the_server():
    engine = Engine()
    Common(Holdings(CONFIG, BLOCKS), CONFIG, engine).take({name: torch.ones(4, 2) for name in BLOCKS})
    assert [float(tensor.mean()) for tensor in engine.held.values()] == [1.0, 1.0, 1.0, 4.0, 5.0]


def test_a_client_holds_the_blocks_before_its_cut_and_the_beginning_of_each_matrix():
    holdings = Holdings(CONFIG, BLOCKS)
    shared = {name: torch.zeros(4, 2) for name in BLOCKS} | {"embed.weight": torch.zeros(3)}
    part = holdings.part(shared, holdings.of("client-1"))
    assert {name: list(tensor.shape) for name, tensor in part.items()} == {
        name: [2, 2] for name in BLOCKS
    } | {"embed.weight": [3]}
    assert list(holdings.part(shared, Holding(1, 4))) == ["h.0.lora_A.weight", "embed.weight"]
    assert holdings.whole == Holding(4, 4) not in holdings.others
