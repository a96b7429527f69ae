"""Elements of a self-contained HTML page, from the macros of `templates/`; knows nothing of runs.

Every text is escaped by jinja2; what is HTML already is `Markup`.
"""

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import cast

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

_ENVIRONMENT = Environment(
    loader=PackageLoader("splitcom.report"),
    autoescape=True,
    undefined=StrictUndefined,
    keep_trailing_newline=True,
)
_ENVIRONMENT.policies["json.dumps_kwargs"] = {"ensure_ascii": False}


def page(
    title: str, subtitle: str, sections: Sequence[Markup], data: object, *, is_live: bool = False
) -> str:
    """Compose a whole document that fetches nothing; its one script works on `data`, which is JSON.

    One that `is_live` asks whoever has served it, and nobody else, for what is new.
    """
    folder = files("splitcom.report") / "templates"
    names = ("page.css", "live.js" if is_live else "page.js")
    style, script = ((folder / name).read_text(encoding="utf-8") for name in names)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _ENVIRONMENT.get_template("page.html").render(
        title=title,
        subtitle=subtitle,
        sections=sections,
        data=data,
        style=style,
        script=script,
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
        + "; connect-src 'self'" * is_live,
    )


def section(title: str, *content: Markup) -> Markup:
    """Put content under a heading."""
    return _element("section", title, content)


def part(name: str, content: Markup | str) -> Markup:
    """Give content a name, by which the script of a live page replaces it."""
    return _element("part", name, content)


def bar(done: float, of: float) -> Markup:
    """Show how much of something is done."""
    return _element("bar", done, of)


def paragraph(text: object) -> Markup:
    """Make a paragraph of explanation."""
    return _element("paragraph", text)


def cards(items: Sequence[tuple[str, str, str]]) -> Markup:
    """Show headline figures: (name, value, remark) each."""
    return _element("cards", items)


def table(
    header: Sequence[object],
    rows: Sequence[Sequence[object]],
    footer: Sequence[Sequence[object]] = (),
    texts: int = 1,
) -> Markup:
    """Make a table that scrolls if it is too wide; all but the first `texts` columns are numbers."""
    return _element("table", header, rows, footer, texts)


def figures(drawn: Sequence[tuple[str, str, str]]) -> Markup:
    """Lay plots out beside one another if there is room: (caption, svg, how to read it); `svg` is HTML already."""
    return _element("figures", drawn)


def terms(items: Sequence[tuple[str, str]]) -> Markup:
    """List named texts, the last one stressed: (name, text) each."""
    return _element("terms", items)


def details(summary: str, content: Markup) -> Markup:
    """Fold content away."""
    return _element("details", summary, content)


def preformatted(text: str) -> Markup:
    """Show text as it is."""
    return _element("preformatted", text)


def swatch(colour: str, text: str) -> Markup:
    """Mark a name with its colour in the plots."""
    return _element("swatch", colour, text)


def switch(colour: str, label: str) -> Markup:
    """Mark a name with its colour and, if the script runs, a box that shows and hides it in the plots."""
    return _element("switch", colour, label)


def link_times(
    sliders: Sequence[tuple[str, str, str, float, float, float]], rows: Sequence[tuple[str, str]]
) -> Markup:
    """Make sliders, of powers of ten, and a table of bars that the script fills.

    `sliders` are (name, text, unit, lowest, highest, first exponent), `rows` are (colour, label).
    """
    return _element("link_times", sliders, rows)


def link(address: str, text: str) -> Markup:
    """Link to a file beside the page."""
    return _element("link", address, text)


def _element(name: str, *arguments: object) -> Markup:
    macros = _ENVIRONMENT.get_template("elements.html").module
    return cast(Markup, getattr(macros, name)(*arguments))
