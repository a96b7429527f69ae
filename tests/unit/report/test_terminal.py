"""What users wrote is shown as it is, whatever it holds, and no failure to show it raises."""

import ast
import logging
import os
import subprocess
import sys
from io import BytesIO, StringIO, TextIOWrapper
from pathlib import Path

import pytest

import splitcom
from splitcom.foreign import LogFormatter, visible
from splitcom.report.terminal import Table, Terminal, TerminalLog, line, live_page, progress

HOSTILE = ["[/INST] a", "[math]", "[bold]b[/bold]", ":smile:", "[link=file:///x]y[/link]", r"\[a]"]
ACTING = [
    "\x1b[2J",
    "\x1b]0;title\x07",
    "a\rb",
    "\x9b31m",
    "\u202egnp.exe",
    "\u2066x",
    "\ud800",
    "a\x08b",
    "\u2028",
]


def terminal(**options):
    return Terminal(file=StringIO(), width=200, **options)


def shown_everywhere(text: str) -> list[str]:
    """The text in each way in which the package shows one."""
    found = []
    for show in (
        lambda t: t.say(text),
        lambda t: t.print(text),
        lambda t: t.print(line(text)),
        lambda t: t.print(_table(text)),
        lambda t: t.print(_bar(t, text)),
        lambda t: t.print(t.working(text).renderable),
        lambda t: TerminalLog(t).emit(logging.LogRecord("a", 20, "b", 1, "%s", (text,), None)),
    ):
        one = terminal()
        show(one)
        found.append(one.file.getvalue())
    return found


def _table(text):
    table = Table(title=text, caption=text)
    table.add_column(text)
    table.add_row(text)
    return table


def _bar(one, text):
    bar = progress(one)
    bar.add_task(text, total=1, status=text)
    return bar


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_is_markup(text):
    for output in shown_everywhere(text):
        assert text in output


@pytest.mark.parametrize("text", ACTING)
def test_nothing_in_a_text_acts_on_the_terminal(text):
    for output in shown_everywhere(text):
        assert visible(text) in output
        assert not set(output) & {
            "\x1b",
            "\r",
            "\x9b",
            "\u202e",
            "\u2066",
            "\ud800",
            "\x08",
            "\x07",
            "\u2028",
        }
        output.encode()


def test_letters_that_need_joiners_stay_what_they_are():
    for text in ("می‌خواهم", "👩‍💻", "naïve – ﬁ 漢字"):
        assert visible(text) == text


def test_a_log_has_one_bounded_line_for_each_record():
    formatter = LogFormatter("%(levelname)s %(message)s")
    said = "gone\n2026-01-01 CRITICAL root: all is well" + "x" * 200_000_000
    record = logging.LogRecord("a", logging.WARNING, "b", 1, "%s has left: %s", ("\x1b[31mc", said), None)
    text = formatter.format(record)
    assert "\n" not in text and "\x1b" not in text and len(text) < 5000
    try:
        raise ValueError("two\nlines\x1b")
    except ValueError:
        record = logging.LogRecord("a", logging.ERROR, "b", 1, "failed", (), sys.exc_info())
    text = formatter.format(record)
    assert text.splitlines()[0] == "ERROR failed" and text.endswith("lines\\x1b")


def test_a_console_that_lacks_a_character_shows_its_code():
    stream = TextIOWrapper(BytesIO(), encoding="ascii")
    Terminal(file=stream, width=80).say("θ and 漢")
    assert stream.buffer.getvalue() == b"\\u03b8 and \\u6f22\n"


def test_a_reader_that_has_gone_ends_nothing(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    code = (
        "from splitcom.report.terminal import Terminal\n"
        "for i in range(9): Terminal().say(i)\nopen('on', 'w').close()"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=writing, stderr=subprocess.PIPE, cwd=tmp_path)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"") and (tmp_path / "on").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device here")
def test_a_full_disk_behind_stdout_ends_nothing():
    with Path("/dev/full").open("w") as full:
        Terminal(file=full).say("a")


def test_a_page_that_cannot_be_drawn_says_why():
    one = terminal()
    one.print(live_page(one, lambda: 1 / 0).get_renderable())
    assert "ZeroDivisionError" in one.file.getvalue()


def test_only_one_module_knows_rich_and_nobody_prints_past_it():
    """So that no text can reach a terminal by another way."""
    root = Path(splitcom.__file__).parent
    for path in root.rglob("*.py"):
        if path == root / "report" / "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in {"print", "typer.echo", "typer.secho", "sys.stdout.write"}, path
            assert not any(name.split(".")[0] == "rich" for name in names), path
