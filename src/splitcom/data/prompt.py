"""A prompt's template over the columns of a row, of either kind; knows no tokenizer.

    {question} in {place} =>                                 columns in single braces, and text
    {{ instruction }}{% if input %} ({{ input }}){% endif %}   jinja2, if there is {{ or {% in it

Jinja2 runs in its sandbox, with nothing in reach but the columns that the template names: a template that came from a
server shows what it reads. A name that is no identifier stands in `row["customer rating"]`.
"""

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from splitcom.data.columns import text_of, value_of
from splitcom.errors import DataError

SETTING = "data.prompt"
_ROW = "row"
# {{{a}}} is a column in braces that are text
_IS_JINJA = re.compile(r"\{%|\{#|(?<!\{)\{\{(?!\{)")
_JINJA = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
)


@dataclass(frozen=True)
class Prompt:
    """A template that has been read: pieces of text, each with the column behind it, or one of jinja2."""

    columns: tuple[str, ...]
    pieces: tuple[tuple[str, str | None], ...] = ()
    jinja: Template | None = None

    def render(self, record: Mapping[str, Any], where: str) -> tuple[str, bool]:
        """Return the prompt of a row, and whether it lacks all that the template asks of its columns.

        Raises DataError, naming row and column, for a column that is missing or holds no text.
        """
        if self.jinja is None:
            values = {column: text_of(record, column, where, SETTING) for column in self.columns}
            text = "".join(
                piece + ("" if column is None else values[column]) for piece, column in self.pieces
            )
        else:
            # One that is missing may be asked for: `is defined`.
            values = {c: text_of(record, c, where, SETTING) for c in self.columns if c in record}
            text = self._rendered(self.jinja, values, record, where)
        return text, bool(self.columns) and not "".join(values.values()).strip()

    def _rendered(
        self, jinja: Template, values: Mapping[str, str], record: Mapping[str, Any], where: str
    ) -> str:
        try:
            return jinja.render({_ROW: values, **values})
        except UndefinedError as error:
            for column in self.columns:
                value_of(record, column, where, SETTING)
            raise DataError(f"{where}: data.prompt cannot be filled in: {error}") from error
        except Exception as error:  # whatever the template's own expressions raise
            raise DataError(f"{where}: data.prompt cannot be filled in: {error}") from error


@lru_cache
def read_prompt(template: str) -> Prompt:
    """Read a template; raises DataError if it is malformed."""
    if _IS_JINJA.search(template):
        return _read_jinja(template)
    try:
        pieces = list(string.Formatter().parse(template))
    except ValueError as error:
        raise DataError(
            f"data.prompt = {template!r}: {error}; put a column's name in a pair of braces, as in '{{mr}} =>'"
        ) from error
    if any(column == "" or spec or conversion for _, column, spec, conversion in pieces):
        raise DataError(
            f"data.prompt = {template!r}: put just a column's name in each pair of braces, as in '{{mr}} =>'"
        )
    named = dict.fromkeys(column for _, column, _, _ in pieces if column is not None)
    return Prompt(tuple(named), tuple((text, column) for text, column, _, _ in pieces))


def _read_jinja(template: str) -> Prompt:
    try:
        tree = _JINJA.parse(template)
        jinja = _JINJA.from_string(template)
    except TemplateSyntaxError as error:
        raise DataError(
            f"data.prompt, line {error.lineno}: {error.message}; a template with two braces or a percent sign behind "
            "one is jinja2, in which {{ name }} is a column and {{ '{' }} a brace"
        ) from error
    except TemplateError as error:
        raise DataError(f"data.prompt: {error}") from error
    named = meta.find_undeclared_variables(tree)
    if _ROW in named:
        named = (named - {_ROW}) | _columns_of_row(tree)
    return Prompt(tuple(sorted(named, key=template.find)), jinja=jinja)


def _columns_of_row(tree: nodes.Template) -> set[str]:
    found = {node.attr for node in tree.find_all(nodes.Getattr) if _is_row(node.node)}
    for node in tree.find_all(nodes.Getitem):
        if _is_row(node.node) and isinstance(node.arg, nodes.Const):
            found.add(str(node.arg.value))
    return found


def _is_row(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Name) and node.name == _ROW
