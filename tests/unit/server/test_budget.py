"""What evaluation may send: no more than its part, but of as many rows as tell something."""

from splitcom.server.budget import Budget


def sent(trained, evaluation):
    return {"activation_up": trained, "control": 10**9, "evaluation": evaluation, "total": 10**12, "up": 1}


def test_another_evaluation_has_to_leave_enough_for_the_end():
    budget, rows = Budget(0.1), {"a": 10, "b": 10}
    budget.take_note(2_000, 20)  # a row's 100, later ones taken for 25
    assert not budget.has_room(sent(40_000, 2_000), rows)
    assert budget.has_room(sent(45_000, 2_000), rows)
    budget.take_note(1_000, 20)  # 50
    assert not budget.has_room(sent(45_000, 2_000), rows)
    assert budget.has_room(sent(50_000, 2_000), rows)
    assert Budget(None).has_room(sent(0, 10**9), rows)


def test_a_dozen_rows_are_evaluated_whatever_they_cost():
    budget = Budget(0.1)
    rows = budget.rows({"a": 30, "b": 30, "c": 2}, {"a": 40, "b": 40, "c": 3})
    assert rows == {"a": 4, "b": 4, "c": 3}
    budget.take_note(10**6, 11)
    assert budget.has_room(sent(0, 10**9), rows)


def test_of_classes_there_are_more_since_a_row_has_one_label(tiny_config):
    config = tiny_config.override({"data.task": "classification", "data.labels": ["no", "yes"]})
    assert Budget.of(config).rows({"a": 600}, {"a": 872}) == {"a": 200}
    assert Budget.of(tiny_config).rows({"a": 600}, {"a": 872}) == {"a": 15}


def test_a_budget_goes_on_from_a_checkpoint():
    rows = {"a": 20}
    for noted in [[(2_000, 20)], [(2_000, 20), (1_000, 20)]]:
        budget, other = Budget(0.1), Budget(0.1)
        for note in noted:
            budget.take_note(*note)
        other.load_state(budget.state())
        found = [other.has_room(sent(size, 2_000), rows) for size in (40_000, 45_000, 50_000)]
        assert found == [budget.has_room(sent(size, 2_000), rows) for size in (40_000, 45_000, 50_000)]
        assert {True, False} <= set(found)


def test_a_client_that_goes_changes_nothing_for_the_others_also_after_a_checkpoint():
    budget, again = Budget(0.1), Budget(0.1)
    sizes, held = dict.fromkeys("abc", 30), dict.fromkeys("abc", 40)
    whole = budget.rows(sizes, held)
    again.load_state(budget.state())
    for one in (budget, again):
        assert one.rows(sizes, {"a": 40, "b": 40}) == {"a": whole["a"], "b": whole["b"]} == {"a": 4, "b": 4}
