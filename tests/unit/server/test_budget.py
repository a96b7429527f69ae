"""What evaluation may send: never more than its part, whatever it has cost before."""

from splitcom.server.budget import Budget

ROWS, HELD = {"a": 4, "b": 2}, {"a": 40, "b": 5}


def sent(trained, evaluation):
    return {"activation_up": trained, "control": 10**9, "evaluation": evaluation, "total": 10**12, "up": 1}


def test_another_evaluation_has_to_leave_enough_for_the_end():
    budget = Budget(0.1)
    budget.take_note(600, 6)  # a row's 100
    budget.take_note(60, 6)  # later ones are cheaper
    assert not budget.has_room(sent(20_000, 600), 6)
    assert budget.has_room(sent(24_000, 600), 6)
    assert Budget(None).has_room(sent(0, 10**9), 6)


def test_the_exact_pass_takes_more_rows_as_far_as_they_fit():
    budget = Budget(0.1)
    budget.take_note(600, 6)
    assert budget.exact_rows(sent(0, 600), ROWS, HELD) == ROWS
    assert budget.exact_rows(sent(10**6, 600), ROWS, HELD) == HELD
    some = budget.exact_rows(sent(50_000, 600), ROWS, HELD)
    assert ROWS["a"] < some["a"] < HELD["a"]
    unseen = sum(some.values()) - sum(ROWS.values())
    assert 600 + 600 + 1.8 * 100 * unseen <= 0.1 * 50_000
    assert Budget(None).exact_rows(sent(0, 600), HELD, HELD) == HELD


def test_a_budget_goes_on_from_a_checkpoint():
    budget, other = Budget(0.1), Budget(0.1)
    budget.take_note(600, 6)
    other.load_state(budget.state())
    assert other.exact_rows(sent(50_000, 600), ROWS, HELD) == budget.exact_rows(sent(50_000, 600), ROWS, HELD)
