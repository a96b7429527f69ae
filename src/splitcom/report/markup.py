"""Elements of a self-contained HTML page; knows nothing of runs. Every text is escaped here."""

import base64
import hashlib
import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files


class Markup(str):
    """Text that is HTML already; any other is escaped where it enters an element."""


def html(value: object) -> str:
    """Give a value's HTML."""
    return value if isinstance(value, Markup) else escape(str(value))


def page(title: str, subtitle: str, sections: Sequence[Markup], data: object) -> str:
    """Compose a whole document that fetches nothing; its one script works on `data`, which is JSON."""
    style, script = (
        files("splitcom.report").joinpath(name).read_text(encoding="utf-8")
        for name in ("page.css", "page.js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    embedded = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")  # nothing in it ends the element
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{html(title)}</title>
<style>
{style}</style>
</head>
<body>
<main>
<header><h1>{html(title)}</h1><p class="quiet">{html(subtitle)}</p></header>
{"".join(sections)}</main>
<script type="application/json" id="data">{embedded}</script>
<script>{script}</script>
</body>
</html>
"""


def section(title: str, *content: Markup) -> Markup:
    """Put content under a heading."""
    return Markup(f"<section><h2>{html(title)}</h2>{''.join(content)}</section>\n")


def paragraph(text: object) -> Markup:
    """Make a paragraph of explanation."""
    return Markup(f'<p class="quiet">{html(text)}</p>')


def cards(items: Sequence[tuple[str, str, str]]) -> Markup:
    """Show headline figures: (name, value, remark) each."""
    body = "".join(
        f'<div class="card"><dt>{html(name)}</dt><dd>{html(value)}</dd>'
        f'<dd class="quiet">{html(remark)}</dd></div>'
        for name, value, remark in items
    )
    return Markup(f'<dl class="cards">{body}</dl>\n')


def table(
    header: Sequence[object],
    rows: Sequence[Sequence[object]],
    footer: Sequence[Sequence[object]] = (),
    texts: int = 1,
) -> Markup:
    """Make a table that scrolls where it is too wide; all but the first `texts` columns are numbers."""

    def line(cells: Sequence[object], tag: str) -> str:
        first = f'<{tag} class="text">{{}}</{tag}>'
        other = f"<{tag}>{{}}</{tag}>"
        filled = [(first if place < texts else other).format(html(cell)) for place, cell in enumerate(cells)]
        return f"<tr>{''.join(filled)}</tr>"

    head = line(header, "th")
    body = "".join(line(row, "td") for row in rows)
    foot = "".join(line(row, "td") for row in footer)
    return Markup(
        f'<div class="scroll" tabindex="0"><table><thead>{head}</thead><tbody>{body}</tbody>'
        f"{f'<tfoot>{foot}</tfoot>' if foot else ''}</table></div>\n"
    )


def figures(drawn: Sequence[tuple[str, str]]) -> Markup:
    """Lay plots out beside one another where there is room: (caption, svg) each."""
    body = "".join(f"<figure><figcaption>{html(name)}</figcaption>{svg}</figure>" for name, svg in drawn)
    return Markup(f'<div class="figures">{body}</div>\n')


def terms(items: Sequence[tuple[str, str]]) -> Markup:
    """List named texts, the last one stressed: (name, text) each."""
    body = "".join(f"<dt>{html(name)}</dt><dd>{html(text)}</dd>" for name, text in items)
    return Markup(f'<dl class="terms">{body}</dl>\n')


def details(summary: str, content: Markup) -> Markup:
    """Fold content away."""
    return Markup(f"<details><summary>{html(summary)}</summary>{content}</details>\n")


def preformatted(text: str) -> Markup:
    """Show text as it is."""
    return Markup(f'<pre class="scroll" tabindex="0">{html(text)}</pre>')


def swatch(colour: str, text: str) -> Markup:
    """Mark a name with its colour in the plots."""
    return Markup(f'<span class="swatch" style="background:{html(colour)}"></span>{html(text)}')


def switch(colour: str, label: str) -> Markup:
    """Mark a name with its colour and, where the script runs, a box that shows and hides it in the plots."""
    box = f'<input type="checkbox" checked hidden data-shows="{html(label)}" aria-label="show {html(label)}">'
    return Markup(f"{box}{swatch(colour, label)}")


def link_times(
    sliders: Sequence[tuple[str, str, str, float, float, float]], rows: Sequence[tuple[str, str]]
) -> Markup:
    """Make sliders, of powers of ten, and a table of bars that the script fills.

    `sliders` are (name, text, unit, lowest, highest, first exponent), `rows` are (colour, label).
    """
    inputs = "".join(
        f'<label>{html(text)} <input type="range" name="{name}" data-unit="{html(unit)}" min="{low}" max="{high}" '
        f'step="0.05" value="{first}"><output></output></label>'
        for name, text, unit, low, high, first in sliders
    )
    body = "".join(
        f'<tr><td class="text">{swatch(colour, label)}</td><td class="time">–</td>'
        f'<td class="track"><span class="bar" style="background:{html(colour)}"></span></td></tr>'
        for colour, label in rows
    )
    return Markup(
        f'<div id="link"><div class="sliders">{inputs}</div>'
        f'<div class="scroll times" tabindex="0"><table><tbody>{body}</tbody></table></div></div>\n'
    )


def link(address: str, text: str) -> Markup:
    """Link to a file beside the page."""
    return Markup(f'<a href="{html(address)}">{html(text)}</a>')
