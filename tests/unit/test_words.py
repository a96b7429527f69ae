"""What `splitcom codecs`, `controllers` and `aggregators` show of each word."""

import pytest

from splitcom.aggregation import AGGREGATORS
from splitcom.aggregation import parse as parse_aggregator
from splitcom.codecs import parse as parse_codec
from splitcom.codecs.element import ELEMENTS
from splitcom.control import parse as parse_controller
from splitcom.control.controller import CONTROLLERS
from splitcom.language import Word, words

ALL = [
    *((word, parse_codec) for word in words(ELEMENTS)),
    *((word, parse_controller) for word in words(CONTROLLERS)),
    *((word, parse_aggregator) for word in words(AGGREGATORS)),
]


@pytest.mark.parametrize(("word", "parse"), [pytest.param(*both, id=both[0].name) for both in ALL])
def test_a_word_is_explained_with_all_its_arguments_and_an_example_that_can_be_read(
    word: Word, parse
) -> None:
    assert word.summary.endswith((".", ":"))
    assert all(word.arguments.values()), "say in the docstring's Args what each means"
    assert word.name in word.example
    parse(word.example)
