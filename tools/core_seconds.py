"""What the tests cost: core-seconds by folder, by file and of the dearest tests, whatever else the machine does.

    PYTHONPATH=tools .venv/bin/python -m pytest -n auto -p core_seconds [PATH ...]

Counts this process, and all that it has started (Linux only). A fixture's cost is its first test's. What a worker does
before its first test is not counted.
"""

import os
from collections import Counter, defaultdict
from pathlib import Path

import pytest

_NAME = "core-seconds"
_TICKS = os.sysconf("SC_CLK_TCK")


def _spent():
    """Of this process and its descendants; those that have ended are counted by whoever has waited for them."""
    ticks, children = {}, defaultdict(list)
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks[int(folder.name)] = sum(map(int, fields[11:15]))
        children[int(fields[1])].append(int(folder.name))
    family = [os.getpid()]
    for process in family:
        family += children[process]
    return sum(ticks[process] for process in family) / _TICKS


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    if not hasattr(item.session, "spent"):
        item.session.spent = _spent()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "teardown":
        spent = _spent()
        report.user_properties = [(_NAME, spent - item.session.spent)]
        item.session.spent = spent
    return report


class Table:
    """Of the process that reports."""

    def __init__(self):
        self.by_test = Counter()

    def pytest_runtest_logreport(self, report):
        self.by_test[report.nodeid] += dict(report.user_properties).get(_NAME, 0.0)

    def pytest_terminal_summary(self, terminalreporter):
        by_file, by_folder = Counter(), Counter()
        for test, spent in self.by_test.items():
            file = test.partition("::")[0]
            by_file[file] += spent
            by_folder["/".join(file.split("/")[:2])] += spent
        for title, counter, most in (
            ("folder", by_folder, None),
            ("file", by_file, 60),
            ("test", self.by_test, 120),
        ):
            terminalreporter.section(f"core-seconds by {title}")
            for name, spent in counter.most_common(most):
                terminalreporter.line(f"{spent:8.2f}  {name}")
        terminalreporter.line(f"{by_folder.total():8.2f}  all")


def pytest_configure(config):
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Table())
