"""What stands in code blocks of the documents, and in the examples, can be read by what it is for."""

import re
import runpy
import shlex
from itertools import takewhile
from pathlib import Path

import click
import pytest
import typer

from splitcom.cli import app
from splitcom.codecs.element import ELEMENTS
from splitcom.config import Config
from splitcom.data.chat import read_chat

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
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


SCRIPTS = [pytest.param("bash", path.read_text("utf-8"), id=path.name) for path in EXAMPLES.glob("*.sh")]


@pytest.mark.parametrize(("language", "text"), [*of("", "bash"), *SCRIPTS])
def test_commands_are_ones_that_splitcom_takes(language: str, text: str) -> None:
    group = typer.main.get_command(app)
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if not re.match("splitcom [a-z]", line):
            continue
        words = shlex.split(line, comments=True)[1:]
        words = list(takewhile(lambda word: word not in (">", "&"), words))  # those are the shell's
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


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings, as MkDocs makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", heading.encode("ascii", "ignore").decode()) for heading in headings)
    return {re.sub(r"[-\s]+", "-", text.strip().lower()) for text in plain}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "experiments" / "README.md"], ids=lambda page: page.name)
def test_links_lead_to_pages_and_headings_that_there_are(page: Path) -> None:
    for target, _, anchor in re.findall(
        r"\]\(((?!https?:)[^)#\s]*)(#([^)\s]+))?\)", page.read_text(encoding="utf-8")
    ):
        made = re.fullmatch(r"(\.\./)*(reference/\w+|contributing|changes)\.md", target)  # by tools/site.py
        path = page.parent / target if target else page
        assert made or path.exists(), f"{target}: no such page"
        assert made or not anchor or anchor in slugs(path), f"{target}#{anchor}: no such heading"


def test_the_example_of_a_chat_has_conversations_that_are_read() -> None:
    example = runpy.run_path(str(EXAMPLES / "chat.py"))
    assert {read_chat(row).messages[0].content for row in example["shop"]()} == set(example["SHOP"])
    assert example["settings"]("bundled", 10).data.held_out_samples == 2


def test_the_example_of_a_codec_stands_in_settings() -> None:
    example = runpy.run_path(str(EXAMPLES / "codec.py"))
    try:
        assert example["settings"]("lzma").flows.activation_up.codec.endswith("int4 > lzma")
        stage = example["Lzma"](level=1)
        assert stage.decompress(stage.compress(b"ab" * 500), 1000) == b"ab" * 500
    finally:
        del ELEMENTS["lzma"]  # which the conformance suite would miss an example of


def test_the_start_page_names_every_example() -> None:
    start = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert all(path.name in start for path in EXAMPLES.iterdir() if path.is_file())
