"""Conversations into token ids, by a chat template; knows no file and no model.

    <|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n Hi there<|im_end|> \n     chatml
    ───────────────────── labels -100: no loss ───────────────┴── learnt ───────┘

A template that marks what the assistant writes (`{% generation %}`) is believed. With any other, the conversation is
rendered up to and after each of the assistant's turns. The first text must be how the whole begins, and the second too,
as far as the assistant's words go: Phi-3 ends a conversation by a token that is gone once another message follows.
"""

import re
from collections import Counter
from collections.abc import Sequence
from datetime import date
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from splitcom.amount import counted
from splitcom.data.chat import ASSISTANT, USER, ChatError, Conversation, Message
from splitcom.data.encode import added_tokens
from splitcom.data.load import Progress, Row
from splitcom.data.samples import IGNORED, Encoded, Encoding
from splitcom.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Learn = Literal["assistant", "last", "all"]
Span = tuple[int, int]

_FOLDER = Path(__file__).parent / "templates"
BUILT_IN = tuple(sorted(path.stem for path in _FOLDER.glob("*.jinja")))
"""The names of the templates that come with the package."""

_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")
_TODAY = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")
_SOME_DAY = date(2024, 7, 26)  # that of Llama's own templates: a run must read the same tomorrow
_PROBE = "splitcom"
_SHOWN = 30  # characters of a text in a message


def is_template(text: str) -> bool:
    """Whether a setting holds a template itself, not its name or path."""
    return "{{" in text or "{%" in text


def template_text(chosen: str) -> str:
    """The template that a setting names, by a built-in name or a path, or holds; DataError if there is none."""
    if is_template(chosen) or chosen in BUILT_IN:
        return _known(chosen)
    try:
        text = Path(chosen).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"data.chat_template = {chosen!r}: no template of that name ({', '.join(BUILT_IN)}), nor a file that can "
            f"be read ({reason}); correct it"
        ) from error
    if not is_template(text):
        raise DataError(f"data.chat_template = {chosen!r}: this file holds no jinja2 template; name another")
    return text


def _known(chosen: str) -> str:
    """A template by its text or built-in name; reads no other file, since the setting may be a peer's."""
    if is_template(chosen):
        return chosen
    if chosen not in BUILT_IN:
        raise DataError(
            f"data.chat_template = {chosen!r}: no template of that name; there are {', '.join(BUILT_IN)}"
        )
    return (_FOLDER / f"{chosen}.jinja").read_text(encoding="utf-8")


class ChatTemplate:
    """What a model's conversations look like: `chosen`, a built-in name or a template, or else the tokenizer's own.

    Raises DataError if there is none.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", chosen: str | None = None) -> None:
        self._tokenizer = tokenizer
        text = _own(tokenizer) if chosen is None else _known(chosen)
        self._text = _TODAY.sub(lambda call: repr(_SOME_DAY.strftime(call[2])), text)
        # A model's own template writes its opening token itself if the model is to read one.
        self._opening = added_tokens(tokenizer)[0] if chosen in BUILT_IN else []
        self._added = tokenizer.added_tokens_encoder

    @property
    def text(self) -> str:
        """The template as jinja2."""
        return self._text

    def encode(self, conversation: Conversation, learn: Learn) -> tuple[list[int], list[int]]:
        """Return token ids, and as many labels, IGNORED where nothing is learnt.

        A built-in template is opened by the tokenizer's opening tokens. Its closing one is added behind the assistant's
        last word if the template ends this turn by no token of its own. Raises ChatError if the template does not take
        the conversation, or what is learnt cannot be told.
        """
        messages = conversation.messages
        whole, spans = self._spans(messages, only_last=learn == "last")
        last = conversation.last
        ids, tokens = self._tokenised(whole, [spans[index] for index in sorted(spans)])
        at = dict(zip(sorted(spans), tokens, strict=True))
        if last == len(messages) - 1 and self._is_open(ids, at[last][1]):
            start, end = at[last]
            ids, at[last] = [*ids[:end], self._tokenizer.eos_token_id], (start, end + 1)
        if learn == "all":
            return ids, list(ids)
        labels = [IGNORED] * len(ids)
        for index, (start, end) in at.items():
            if messages[index].learnt:
                labels[start:end] = ids[start:end]
        return ids, labels

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of messages that the assistant is to answer; DataError if the template does not take them."""
        try:
            return self._opened(self._ids(self._render(messages, asks=True)))
        except ChatError as error:
            raise DataError(f"this conversation cannot be continued: {error}") from error

    @cached_property
    def end_of_turn(self) -> str:
        """What the template writes behind the assistant's words; empty if nothing."""
        try:
            whole, spans = self._spans([Message(USER, _PROBE), Message(ASSISTANT, _PROBE)], only_last=True)
        except ChatError:
            return ""
        return whole[spans[1][0] :].partition(_PROBE)[2].strip()

    def _spans(self, messages: Sequence[Message], *, only_last: bool) -> tuple[str, dict[int, Span]]:
        """The text of a conversation, and where in it the assistant's turns stand, by the message's index."""
        turns = [index for index, message in enumerate(messages) if message.role == ASSISTANT]
        if _MARKED.search(self._text):
            whole, blocks = self._rendered(messages, asks=False, marks=True)
            marked: list[Span] = []
            for start, end in blocks:  # those that touch are one turn
                begun = marked.pop()[0] if marked and marked[-1][1] == start else start
                marked.append((begun, end))
            if len(marked) != len(turns):
                raise ChatError(
                    f"the chat template marks {len(marked)} of the assistant's {len(turns)} turns"
                )
            return whole, {turns[-1]: marked[-1]} if only_last else dict(zip(turns, marked, strict=True))
        whole = self._render(messages)
        return whole, {
            index: self._span(messages, index, whole) for index in (turns[-1:] if only_last else turns)
        }

    def _span(self, messages: Sequence[Message], index: int, whole: str) -> Span:
        before = self._render(messages[:index], asks=True)
        if not whole.startswith(before):
            raise ChatError(
                f"the chat template asks for message {index + 1} in another way than it writes it (it asks by "
                f"{before[-_SHOWN:]!r}), so that nobody can tell which tokens are learnt; name another in "
                "data.chat_template, or one with {% generation %}"
            )
        after = whole if index == len(messages) - 1 else self._render(messages[: index + 1])
        same = whole[: self._whole_marks(whole, _common(after, whole))].rstrip()
        if not whole.startswith(after) and messages[index].content.strip() not in same[len(before) :]:
            raise ChatError(
                f"the chat template writes message {index + 1} in another way if more messages follow, so "
                "that nobody can tell which tokens are learnt; data.learn = 'last' may do, or another template in "
                "data.chat_template ('qwen3' for Qwen3)"
            )
        if len(same) <= len(before):
            raise ChatError(f"the chat template leaves nothing of message {index + 1}")
        return len(before), len(same)

    def _whole_marks(self, text: str, end: int) -> int:
        """The last place up to `end` that is not within one of the tokenizer's added tokens."""
        begun = (
            start
            for mark in self._added
            for start in range(max(end - len(mark) + 1, 0), end)
            if text.startswith(mark, start)
        )
        return min(begun, default=end)

    def _render(self, messages: Sequence[Message], *, asks: bool = False) -> str:
        return self._rendered(messages, asks=asks, marks=False)[0]

    def _rendered(self, messages: Sequence[Message], *, asks: bool, marks: bool) -> tuple[str, list[Span]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            texts, spans = render_jinja_template(
                conversations=[turns],
                chat_template=self._text,
                add_generation_prompt=asks,
                return_assistant_tokens_mask=marks,
                **self._tokenizer.special_tokens_map,
            )
        except Exception as error:  # what a template's expressions raise, and what it refuses itself
            raise ChatError(f"the chat template refuses it: {error}") from error
        return texts[0], [tuple(span) for span in spans[0]] if marks else []

    def _tokenised(self, text: str, spans: Sequence[Span]) -> tuple[list[int], list[Span]]:
        """Token ids, and the spans in tokens.

        If a token would reach over a span's end, pieces are tokenised alone, as the prompt is in generation.
        """
        cuts = sorted({place for span in spans for place in span})
        ids = self._ids(text)
        heads = [self._ids(text[:cut]) for cut in cuts]
        if all(head == ids[: len(head)] for head in heads):
            places = dict(zip(cuts, map(len, heads), strict=True))
        else:
            pieces = [self._ids(text[start:end]) for start, end in pairwise([0, *cuts, len(text)])]
            joined = [token for piece in pieces for token in piece]
            if self._tokenizer.decode(joined) != self._tokenizer.decode(ids):
                raise ChatError("the tokenizer joins what is learnt with what stands beside it")
            ids, places, count = joined, {}, 0
            for cut, piece in zip(cuts, pieces, strict=False):
                places[cut] = count = count + len(piece)
        opened = self._opened(ids)
        shift = len(opened) - len(ids)
        return opened, [(places[start] + shift, places[end] + shift) for start, end in spans]

    def _is_open(self, ids: list[int], end: int) -> bool:
        """Whether no token of its own ends the last turn, whose words end before token `end`."""
        while end > 1 and not self._tokenizer.decode(ids[end - 1]).strip():
            end -= 1
        return self._tokenizer.eos_token_id is not None and not {*ids[end - 1 :]} & {*self._added.values()}

    def _opened(self, ids: list[int]) -> list[int]:
        return ids if ids[: len(self._opening)] == self._opening else [*self._opening, *ids]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids


def _common(one: str, other: str) -> int:
    """How many characters both begin with."""
    differing = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differing, min(len(one), len(other)))


def _own(tokenizer: "PreTrainedTokenizerBase") -> str:
    if tokenizer.chat_template is None:
        raise DataError(
            "the model has no chat template: name one that the package has in data.chat_template "
            f"({', '.join(BUILT_IN)}) or the path of a jinja file, or take a model that has one, such as the tuned "
            "variant of this one (in model.source)"
        )
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:
        raise DataError(
            f"the model has several chat templates and none is the default ({error}); give the path of one in "
            "data.chat_template"
        ) from error


def encode_chats(
    rows: Sequence[Row],
    template: ChatTemplate,
    learn: Learn = "assistant",
    max_tokens: int = 256,
    on_progress: Progress | None = None,
) -> Encoded:
    """Tokenise conversations; the loss is on what `learn` names: all of the assistant's turns, the last, or all tokens.

    A sample longer than `max_tokens` loses its end; one that is malformed, or of which nothing is left to learn, is
    dropped. Both are in the report.

    Raises:
        DataError: no sample left.
    """
    kept, forms = Encoding(rows, max_tokens), Counter[str]()
    for row in kept.rows(on_progress):
        try:
            if row.conversation is None:
                raise ChatError(row.problem)
            ids, labels = template.encode(row.conversation, learn)
            if all(label == IGNORED for label in labels[1:max_tokens]):  # nothing predicts the first token
                raise ChatError(
                    f"nothing to learn in its first {counted(max_tokens, 'token')} (data.max_tokens)"
                )
        except ChatError as problem:
            kept.drop(row, str(problem))
            continue
        forms[row.conversation.form] += 1
        kept.add(row, ids, labels)
    notes = [f"{counted(number, 'conversation')} from {form}" for form, number in forms.items()]
    return kept.finish("no conversation left of {rows}: {report}", notes)
