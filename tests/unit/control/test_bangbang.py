"""Bang-bang control: when it switches, and that it holds a loss within its band."""

from math import log

from splitcom.control import Feedback, parse


def feedback(number, loss):
    return Feedback(
        round=number,
        progress=number / 100,
        train_loss=None,
        held_out_loss=loss,
        skip_ratio=0.0,
        sent_bytes=0,
        uncompressed_bytes=0,
    )


def test_the_perplexity_switches_it_and_the_dead_band_holds_it():
    controller = parse("bangbang(0.9, 0.99, band=0.1)")
    levels = [controller.decide().value]
    for number, perplexity in enumerate([100.0, 80.0, 75.0, 76.0, 70.0, 60.0]):
        controller.observe(feedback(number, log(perplexity)))
        levels.append(controller.decide().value)
    # falls by: nothing yet, 20 %, 6 % (in the band), -1 %, 8 % (in the band), 14 %
    assert levels == [0.99, 0.99, 0.9, 0.9, 0.99, 0.99, 0.9]


def test_a_round_without_evaluation_changes_nothing():
    controller = parse("bangbang(0.9, 0.99)")
    for number, loss in enumerate([3.0, 2.5, None, 2.6]):
        controller.observe(feedback(number, loss))
        assert controller.decide().value == (0.99 if number in (0, 3) else 0.9)


def test_a_loss_that_jumps_by_thousands_of_nats_makes_it_careful():
    controller = parse("bangbang(0.9, 0.99)")
    for number, loss in enumerate([3.0, 2.5, 5000.0]):
        assert controller.decide().value == (0.9 if number == 2 else 0.99)
        controller.observe(feedback(number, loss))
    assert controller.decide().value == 0.99
    controller.observe(feedback(3, 2.5))  # and back
    assert controller.decide().value == 0.9
