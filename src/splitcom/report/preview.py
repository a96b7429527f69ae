"""What a model would see of rows, in a terminal, or as plain text in a pipe: « and » stand around what is learnt."""

from splitcom.amount import counted
from splitcom.data import BUILT_IN
from splitcom.methods.preview import Lengths, Preview
from splitcom.report.terminal import Terminal, line

_LEARNT = {"assistant": "the assistant's turns", "last": "the assistant's last turn", "all": "all tokens"}
_BARS, _PLAIN_BARS = "▁▂▃▄▅▆▇█", ".:-=+*#@"


def print_preview(terminal: Terminal, found: Preview) -> None:
    """Print samples, lengths and reports."""
    terminal.say(_how_read(found))
    for sample in found.samples:
        terminal.say(
            f"\n{sample.place}: {counted(sample.num_tokens, 'token')}, {sample.num_learnt} learnt", "dim"
        )
        text = line("")
        for piece, learnt in sample.pieces:
            text += line(f"«{piece}»", "bold green") if learnt else line(piece)
        terminal.print(text, soft_wrap=True)
    terminal.say("")
    bars = _PLAIN_BARS if terminal.options.ascii_only else _BARS
    terminal.say(histogram(found.lengths, bars))
    if found.config.data.classes is None:
        share = found.num_learnt / found.num_tokens
        terminal.say(
            f"learnt: {found.num_learnt:,} of {found.num_tokens:,} tokens ({share:.0%}), between « and »"
        )
    terminal.say(found.report)
    if found.clients:
        terminal.say(found.clients)


def histogram(lengths: Lengths, bars: str = _BARS) -> str:
    """One line: shortest, how many of each length, longest, median.

    >>> histogram(Lengths(3, 5, 9, [1, 0, 8]))
    'tokens: 3 ▁ █ 9, median 5'
    """
    most = max(lengths.counts)
    shown = "".join(bars[(count * len(bars) - 1) // most] if count else " " for count in lengths.counts)
    return f"tokens: {lengths.shortest} {shown} {lengths.longest}, median {lengths.median:g}"


def _how_read(found: Preview) -> str:
    data = found.config.data
    if data.classes is not None:
        return f"{data.source}: texts with classes {', '.join(data.classes)}, read by {found.config.model.source}"
    if data.format == "tokens":
        return f"{data.source}: token ids"
    if data.format != "chat":
        return f"{data.source}: columns, prompt {data.prompt!r}, response {data.response!r}"
    chosen = data.chat_template
    template = "the model's" if chosen is None else chosen if chosen in BUILT_IN else "one of its own"
    return f"{data.source}: chat, template {template}, learnt are {_LEARNT[data.learn]}"
