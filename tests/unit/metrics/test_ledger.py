"""Totals are kept as they grow, and are the sum of what was counted whatever has happened in between."""

from splitcom.metrics.ledger import Ledger
from splitcom.metrics.tally import Tally


def counted(ledger: Ledger, rounds: int) -> None:
    for _ in range(rounds):
        ledger.count("a", {"activation_up": 100, "control": 7}, upwards=True)
        ledger.count("b", {"gradient_down": 30, "evaluation": 5}, upwards=False)
        ledger.close_round()


def test_a_ledger_that_went_back_goes_on_as_one_that_did_not() -> None:
    straight, back = Ledger(), Ledger()
    counted(straight, 5)
    counted(back, 2)
    saved = back.state()
    counted(back, 1)
    back.count("a", {"labels_up": 9}, upwards=True)
    back.load_state(saved)
    assert back.repeated_bytes == 142 + 9
    counted(back, 3)
    assert back.totals() == straight.totals()
    assert (back.totals()["up"], back.totals()["down"], back.totals()["total"]) == (535, 175, 710)
    assert back.totals()["evaluation"] == 25


def test_a_round_that_is_not_closed_counts_too() -> None:
    ledger = Ledger()
    ledger.count("a", {"adapter_down": 3}, upwards=False)
    assert ledger.totals()["total"] == 3
    assert ledger.close_round() == {"a": {"adapter_down": 3, "down": 3, "total": 3}}
    assert ledger.totals()["total"] == 3


def test_what_a_process_that_died_has_counted_since_the_checkpoint_is_repeated(tmp_path):
    ledger = Ledger(Tally(tmp_path / "sent"))
    ledger.count("clinic", {"activation_up": 100, "evaluation": 1000}, upwards=True)
    ledger.close_round()
    state = ledger.state()
    ledger.count("clinic", {"activation_up": 30, "evaluation": 1000}, upwards=True)
    after = Ledger(Tally(tmp_path / "sent"))
    after.load_state(state)
    assert (after.repeated_bytes, after.totals()["total"]) == (1030, 1100)
    after.count("clinic", {"gradient_down": 5}, upwards=False)
    after.load_state(state)
    assert after.repeated_bytes == 1035
    again = Ledger(Tally(tmp_path / "sent"))
    again.load_state(after.state())
    assert again.repeated_bytes == 1035
