"""Hook of MkDocs: the pages that are made from the code, so that they cannot differ from it."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))  # the tree that the pages are of, whatever is installed


def on_files(files: Any, config: Any) -> Any:
    """Add what is generated, and the two documents that lie beside the README."""
    from mkdocs.structure.files import File

    pages = {
        "reference/settings.md": "\n".join(settings()),
        "reference/commands.md": "\n".join(commands()),
        "reference/words.md": "\n".join(all_words()),
        "reference/python.md": "\n".join(python()),
        "contributing.md": document("CONTRIBUTING.md"),
        "changes.md": document("CHANGELOG.md"),
    }
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def settings() -> Iterator[str]:
    """A table for each section of the configuration."""
    from splitcom.config.reference import reference

    yield "# Settings\n"
    yield (
        "All that a settings file can hold. What is not given has its default; `false` stands for none. "
        '`extends = "base.toml"` at the top of a file changes what another file says, and `preset = "…"` sets the '
        "codecs of all flows. On the command line: `--set training.lr=0.002`. In a terminal: `splitcom settings`.\n"
    )
    for group in reference():
        yield f"## {group.key or 'At the top'}\n\n{group.meaning}\n"
        yield "| setting | default | type | meaning |\n| --- | --- | --- | --- |"
        for row in group.settings:
            key = row.key.rpartition(".")[2]
            yield f"| `{key}` | {code(row.default)} | {cell(row.kind)} | {cell(row.meaning)} |"
        yield ""


def commands() -> Iterator[str]:
    """Each command with its arguments and options."""
    import typer

    from splitcom.cli import app

    yield "# Commands\n"
    yield from command(typer.main.get_command(app).commands, "splitcom")  # type: ignore[attr-defined]


def command(below: Any, before: str) -> Iterator[str]:
    """The commands of a group, in the order in which help shows them."""
    for name, one in below.items():
        yield f"## {before} {name}\n\n{one.help or ''}\n"
        if hasattr(one, "commands"):
            yield from (line.replace("## ", "### ", 1) for line in command(one.commands, f"{before} {name}"))
            continue
        yield "| | default | |\n| --- | --- | --- |"
        for parameter in one.params:
            is_option = parameter.param_type_name == "option"
            named = ", ".join(parameter.opts) if is_option else (parameter.metavar or parameter.name.upper())
            default = (
                "" if parameter.default is None or callable(parameter.default) else str(parameter.default)
            )
            yield f"| {code(named)} | {code(default)} | {cell(getattr(parameter, 'help', None) or '')} |"
        yield ""


def all_words() -> Iterator[str]:
    """What codecs, controllers and aggregators are written in."""
    from splitcom.aggregation import AGGREGATORS
    from splitcom.codecs.element import ELEMENTS
    from splitcom.control.controller import CONTROLLERS
    from splitcom.language import words

    yield "# Words of codecs, controllers and aggregators\n"
    for title, registry in (
        ("Stages of codecs", ELEMENTS),
        ("Controllers", CONTROLLERS),
        ("Aggregators", AGGREGATORS),
    ):
        yield f"## {title}\n"
        for word in words(registry):
            yield f"### {word.name}\n\n`{word.signature}`: {word.summary}\n"
            for name, meaning in word.arguments.items():
                yield f"- `{name}`: {meaning}"
            yield f"\nSuch as `{word.example}`.\n"


def python() -> Iterator[str]:
    """The public names, by their docstrings."""
    import splitcom

    yield "# Python\n\nWhat `import splitcom` offers; each loads when it is first used.\n"
    for name in splitcom.__all__:
        yield f"::: {splitcom._HOME[name]}.{name}\n"


def document(name: str) -> str:
    """One that lies beside the README, with links as seen from the docs folder."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.sub(r"\]\(docs/", "](", text)


def code(text: str) -> str:
    """A text in code font, in a table."""
    return f"`{text}`".replace("|", "\\|") if text else ""


def cell(text: str) -> str:
    """A text in a table."""
    return " ".join(text.split()).replace("|", "\\|")
