"""Observers side by side: each hears of everything, and one that fails stops neither the others nor the run."""

import logging

import pytest

from splitcom.errors import RunError
from splitcom.server.observe import Observer, Observers, StepReport

EVENTS = {
    "on_begin": (dict,),
    "on_gather": (lambda: None,),
    "on_saved": (2,),
    "on_merge": ([],),
    "on_rows": ("reading rows", 3, 9),
    "on_data": ("2 of 9 samples are cut", "client-0: 9"),
    "on_step": (StepReport(1, 2, 3, 0.5, 0.25, 1000),),
    "on_evaluation": (1, 4, 7),
    "on_text": (3, 8),
    "on_round": ([{"round": 1}],),
}


class Heard(Observer):
    def __init__(self):
        self.events = []

    def __getattribute__(self, name):
        if name in EVENTS:
            return lambda *arguments: self.events.append((name, arguments))
        return super().__getattribute__(name)


class Failing(Observer):
    def on_step(self, report):
        raise ValueError(f"no room for step {report.step}")

    def on_round(self, lines):
        raise OSError("the console is gone")


def tell_everything(observers):
    for name, arguments in EVENTS.items():
        getattr(observers, name)(*arguments)


def test_every_event_of_an_observer_is_handed_on():
    assert {name for name in vars(Observer) if name.startswith("on_")} == EVENTS.keys()
    first, second = Heard(), Heard()
    tell_everything(Observers([first, second]))
    assert first.events == second.events == list(EVENTS.items())


def test_one_that_fails_is_warned_of_once_and_the_others_hear_on(caplog):
    before, after = Heard(), Heard()
    with caplog.at_level(logging.WARNING, logger="splitcom"):
        observers = Observers([before, Failing(), after])
        tell_everything(observers)
        tell_everything(observers)
    assert before.events == after.events == list(EVENTS.items()) * 2
    assert [record.message for record in caplog.records] == [
        "Failing has failed, and training goes on: ValueError('no room for step 2')"
    ]


def test_what_a_run_cannot_do_without_ends_it():
    class Essential(Observer):
        is_essential = True

        def on_round(self, lines):
            raise RunError("runs/run: cannot write the run folder")

    with pytest.raises(RunError, match="cannot write"):
        tell_everything(Observers([Observers([Essential()])]))


def test_an_interruption_is_no_failure():
    class Interrupted(Observer):
        def on_text(self, done, total):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tell_everything(Observers([Interrupted()]))
