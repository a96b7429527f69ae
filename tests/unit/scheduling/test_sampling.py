"""Which clients are drawn."""

from splitcom.scheduling.sampling import sample_clients


def test_every_client_is_drawn_sooner_or_later_and_the_draw_repeats():
    names = [f"c{i}" for i in range(10)]
    drawn = [sample_clients(names, 3, 0, r) for r in range(60)]
    assert all(len(chosen) == 3 and chosen == sorted(chosen) for chosen in drawn)
    assert {name for chosen in drawn for name in chosen} == set(names)
    assert drawn == [sample_clients(names, 3, 0, r) for r in range(60)]
    assert len(sample_clients(names[:2], 3, 0, 0)) == 2  # of the run's clients, as far as they are there


def test_over_selection_adds_to_the_draw_as_far_as_there_are_clients():
    names = [f"c{i}" for i in range(10)]
    drawn = [len(sample_clients(names, 5, 0, 1, over_select=extra)) for extra in (0.0, 0.1, 0.2, 1.0, 9.0)]
    assert drawn == [5, 6, 6, 10, 10]
    assert len(sample_clients([*names, *names], 10, 0, 1, over_select=0.1)) == 11  # 10 * 1.1 is no 11.0…02
