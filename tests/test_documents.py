"""What stands in code blocks of the documents can be read by what it is for."""

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from splitcom.cli import app
from splitcom.config import Config

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = [
    pytest.param(language, text, id=f"{page.relative_to(ROOT)}:{index}")
    for page in PAGES
    for index, (language, text) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")))
]


def of(*languages: str) -> list:
    return [block for block in BLOCKS if block.values[0] in languages]


@pytest.mark.parametrize(("language", "text"), of("toml"))
def test_settings_are_a_configuration(language: str, text: str) -> None:
    Config.from_toml(text)


@pytest.mark.parametrize(("language", "text"), of("python"))
def test_python_compiles(language: str, text: str) -> None:
    compile(text, "document", "exec")


@pytest.mark.parametrize(("language", "text"), of("", "bash"))
def test_commands_are_ones_that_splitcom_takes(language: str, text: str) -> None:
    group = typer.main.get_command(app)
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if not re.match("splitcom [a-z]", line):
            continue
        words = shlex.split(line, comments=True)[1:]
        words = words[: words.index(">")] if ">" in words else words  # the shell's
        command: click.Command = group
        with command.make_context("splitcom", list(words), resilient_parsing=True) as context:
            while isinstance(command, click.Group) or hasattr(command, "commands"):
                name, command, words = command.resolve_command(context, words)
                assert command is not None, f"{line}: no command {name}"
        command.make_context(name, words)


def test_the_site_has_every_page_of_the_documents() -> None:
    listed = set(re.findall(r": ([\w/-]+\.md)", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    there = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}

    assert there <= listed
