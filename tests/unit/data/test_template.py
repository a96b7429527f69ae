"""Conversations into ids and masks: frozen for five templates, and what holds for all of them."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

import splitcom
from splitcom.data import BUILT_IN, ChatTemplate, Message, Row, encode_chats, template_text
from splitcom.data.chat import ChatError, Conversation
from splitcom.data.samples import IGNORED
from splitcom.errors import DataError

BUNDLED = Path(splitcom.__file__).parent / "models" / "bundled" / "tokenizer.json"
MARKS = [
    "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>",
    "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>",
]  # fmt: skip
USER, ANSWER, MORE, LAST = (
    Message("user", "the inn"),
    Message("assistant", "It is"),
    Message("user", "in the"),
    Message("assistant", "of the"),
)


def tokenizer_with(*marks: str, **special: str | None) -> PreTrainedTokenizerFast:
    """The bundled one, with marks as special tokens from 1536 on."""
    words = Tokenizer.from_file(str(BUNDLED))
    made = PreTrainedTokenizerFast(
        tokenizer_object=words,
        clean_up_tokenization_spaces=False,
        **({"bos_token": "<s>", "eos_token": "</s>"} | special),
    )
    made.add_special_tokens({"additional_special_tokens": list(marks)})
    return made


@pytest.fixture(scope="module")
def marked():
    return tokenizer_with(*MARKS)


def chat(*messages: Message) -> Conversation:
    return Conversation(messages, ("messages",), "messages (role, content)")


def row(*messages: Message, sample_id: int = 0) -> Row:
    return Row(
        sample_id,
        "",
        messages[-1].content,
        {},
        where=f"a.jsonl:{sample_id + 1}",
        conversation=chat(*messages),
    )


def learnt(tokenizer, labels) -> str:
    return tokenizer.decode([label for label in labels if label != IGNORED])


# user "the inn" is [86, 265, 812], assistant "It is" [43, 86, 287] or, after a space, [323, 287]; 201 is a line break
INTRODUCTION = [
    36, 301, 295, 287, 629, 302, 389, 84, 87, 69, 86, 408, 418, 1208, 68, 278, 263, 262, 296, 77, 16, 325, 84, 559, 263,
    358, 1138, 279, 638, 418, 1489, 82, 309, 82, 322, 292, 301, 91, 268, 359, 82, 460, 278, 300, 358, 416, 394, 16,
]  # fmt: skip
FROZEN = {
    "chatml": (
        [1, 1536, 344, 261, 201, 86, 265, 812, 1537, 201, 1536, 586, 1137, 1432, 201],  # <|im_start|> user \n …
        [43, 86, 287, 1537],  # It is <|im_end|>
        [201],
    ),
    "llama-2": (
        [1, 61, 43, 48, 53, 54, 63, 300, 812, 223, 61, 17, 43, 48, 53, 54, 63],  # <s> [INST] the inn [/INST]
        [323, 287, 223, 2],  # It is </s>
        [],
    ),
    "llama-3": (
        [1, 1538, 344, 261, 1539, 201, 201, 86, 265, 812, 1540, 1538, 586, 1137, 1432, 1539, 201, 201],
        [43, 86, 287, 1540],  # It is <|eot_id|>
        [],
    ),
    "gemma": (
        [1, 1541, 344, 261, 201, 86, 265, 812, 1542, 201, 1541, 79, 342, 301, 201],  # <start_of_turn> user \n …
        [43, 86, 287, 1542],  # It is <end_of_turn>
        [201],
    ),
    "zephyr": (
        [1, 1543, 201, 86, 265, 812, 2, 201, 1544, 201],  # <|user|> \n the inn </s> \n <|assistant|> \n
        [43, 86, 287, 2],
        [201],
    ),
    "qwen3": (
        [1, 1536, 344, 261, 201, 86, 265, 812, 1537, 201, 1536, 586, 1137, 1432, 201],
        [30, 330, 260, 77, 32, 201, 201, 30, 17, 330, 260, 77, 32, 201, 201, 43, 86, 287, 1537],  # <think> …
        [201],
    ),
    "alpaca": (
        [1, *INTRODUCTION, 201, 201, 5, 5, 5, 1151, 389, 84, 87, 69, 86, 408, 28, 201, 86, 265, 812,
         201, 201, 5, 5, 5, 328, 278, 82, 279, 638, 28, 201],  # ### Instruction: \n the inn \n\n ### Response: \n
        [43, 86, 287, 2],
        [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BUILT_IN)
def test_ids_and_masks_are_frozen(marked, name):
    before, answer, after = FROZEN[name]
    ids, labels = ChatTemplate(marked, name).encode(chat(USER, ANSWER), "assistant")
    assert ids == before + answer + after
    assert labels == [IGNORED] * len(before) + answer + [IGNORED] * len(after)


@pytest.mark.parametrize("name", BUILT_IN)
def test_ids_are_those_of_transformers_and_an_opening_token(marked, name):
    turns = [{"role": m.role, "content": m.content} for m in (USER, ANSWER, MORE, LAST)]
    theirs = marked.apply_chat_template(turns, chat_template=template_text(name), tokenize=True)["input_ids"]
    ids, _ = ChatTemplate(marked, name).encode(chat(USER, ANSWER, MORE, LAST), "all")
    assert ids == (theirs if theirs[0] == 1 else [1, *theirs])


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("known", [True, False])
def test_what_is_learnt_is_what_the_assistant_says_and_its_end(marked, name, known):
    tokenizer = marked if known else tokenizer_with()
    template = ChatTemplate(tokenizer, name)
    end = template.end_of_turn
    whole = chat(USER, ANSWER, MORE, LAST)
    ids, every = template.encode(whole, "assistant")
    start = "<think>\n\n</think>\n\n" if name == "qwen3" else ""
    assert learnt(tokenizer, every).replace(" ", "") == f"{start}Itis{end}{start}ofthe{end}" + (
        "" if known or end == "</s>" else "</s>"
    )
    _, last = template.encode(whole, "last")
    assert learnt(tokenizer, last).replace(" ", "").startswith(f"{start}ofthe{end}")
    first = next(place for place, label in enumerate(last) if label != IGNORED)
    assert template.prompt_ids(whole.asked) == ids[:first]
    assert template.encode(whole, "all")[1] == ids


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("name", BUILT_IN)
def test_a_conversation_opens_once_and_closes_once(marked, name, known):
    ids, _ = ChatTemplate(marked if known else tokenizer_with(), name).encode(chat(USER, ANSWER), "assistant")
    assert ids.count(1) == 1 and ids[0] == 1
    closed_by_users_too = 1 + (name == "zephyr")
    assert ids.count(2) == (
        0 if known and name in ("chatml", "llama-3", "gemma", "qwen3") else closed_by_users_too
    )


def test_an_answer_that_begins_with_what_the_tokenizer_would_join_is_learnt_as_it_is_written(marked):
    template = ChatTemplate(marked, "chatml")
    for text in ("\n\nIt is", "  It is", "\tIt is\n"):
        conversation = chat(USER, Message("assistant", text))
        ids, labels = template.encode(conversation, "assistant")
        assert learnt(marked, labels) == f"{text}<|im_end|>"
        assert ids[: labels.count(IGNORED) - 1] == template.prompt_ids([USER])


def test_an_answer_that_is_not_to_be_learnt_is_read(marked):
    ids, labels = ChatTemplate(marked, "chatml").encode(
        chat(USER, Message("assistant", "It is", learnt=False), MORE, LAST), "assistant"
    )
    assert learnt(marked, labels) == "of the<|im_end|>" and "It is" in marked.decode(ids)


MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
)
# As Qwen3 does: the last answer is written otherwise than those before it.
LAST_IS_OTHERWISE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if loop.last and m.role == 'assistant' %}(thinking)\n"
    "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_template_that_marks_what_is_generated_is_believed(marked):
    template = ChatTemplate(marked, MARKED)
    whole = chat(USER, ANSWER, MORE, LAST)
    assert learnt(marked, template.encode(whole, "assistant")[1]) == "It is<|im_end|>of the<|im_end|>"
    assert learnt(marked, template.encode(whole, "last")[1]) == "of the<|im_end|>"
    assert template.end_of_turn == "<|im_end|>"


def test_a_template_that_writes_a_turn_otherwise_once_others_follow_is_refused(marked):
    template = ChatTemplate(marked, LAST_IS_OTHERWISE)
    with pytest.raises(ChatError, match=r"writes message 2 in another way .*data\.learn = 'last'"):
        template.encode(chat(USER, ANSWER, MORE, LAST), "assistant")
    _, labels = template.encode(chat(USER, ANSWER, MORE, LAST), "last")
    assert learnt(marked, labels) == "(thinking)\nof the<|im_end|>"


def test_a_template_that_asks_otherwise_than_it_writes_is_refused(marked):
    asks = (
        "{% for m in messages %}|{{ m.content }}{% endfor %}{% if add_generation_prompt %}|<think>{% endif %}"
    )
    with pytest.raises(ChatError, match=r"asks for message 2 in another way than it writes it \(.*<think>"):
        ChatTemplate(marked, asks).encode(chat(USER, ANSWER), "last")


def test_the_models_own_template_is_taken_and_one_without_is_refused():
    own = tokenizer_with("<|im_start|>", "<|im_end|>")
    with pytest.raises(
        DataError, match=r"no chat template: .*data\.chat_template.*chatml.*jinja file, or take a model"
    ):
        ChatTemplate(own)
    own.chat_template = MARKED
    assert ChatTemplate(own).text == MARKED
    ids, _ = ChatTemplate(own).encode(chat(USER, ANSWER), "assistant")
    assert ids[0] == 1536  # no <s>, which the tokenizer would write before any other text
    with pytest.raises(DataError, match=r"no template of that name; there are alpaca, chatml"):
        ChatTemplate(own, "/etc/hostname")


def test_a_template_reads_the_same_tomorrow(marked):
    text = "{{ strftime_now('%Y-%m-%d') }}{% for m in messages %}|{{ m.content }}{% endfor %}"
    ids, _ = ChatTemplate(marked, text).encode(chat(USER, ANSWER), "all")
    assert "2024-07-26" in marked.decode(ids)


def test_a_file_may_hold_a_template(tmp_path):
    path = tmp_path / "own.jinja"
    path.write_text(MARKED)
    assert template_text(str(path)) == MARKED
    path.write_text("nothing")
    with pytest.raises(DataError, match=r"own\.jinja': this file holds no jinja2 template"):
        template_text(str(path))
    with pytest.raises(
        DataError, match=r"data\.chat_template = 'chatlm': no template of that name \(alpaca, chatml"
    ):
        template_text("chatlm")


def test_truncation_keeps_masks_and_drops_what_has_nothing_left_to_learn(marked):
    template = ChatTemplate(marked, "chatml")
    rows = [row(USER, ANSWER, MORE, LAST, sample_id=4), row(USER, ANSWER, sample_id=7)]
    whole = encode_chats(rows, template).samples
    cut = encode_chats(rows, template, max_tokens=17)  # two tokens of the first answer
    for sample, full in zip(cut.samples, whole, strict=True):
        assert sample.input_ids.tolist() == full.input_ids[:17].tolist()
        assert sample.labels.tolist() == full.labels[:17].tolist()
    assert (list(cut.report.truncated_ids), cut.report.num_tokens_cut) == (
        [4, 7],
        len(whole[0].labels) + 20 - 34,
    )
    last = encode_chats([*rows, row(USER, ANSWER, sample_id=9)], template, "last", max_tokens=20)
    assert [sample.sample_id for sample in last.samples] == [7, 9] and list(last.report.dropped_ids) == [4]
    assert "dropped: a.jsonl:5: nothing to learn in its first 20 tokens (data.max_tokens)" in str(last.report)
    with pytest.raises(
        DataError, match=r"(?s)no conversation left of 2 rows: .*a\.jsonl:5: nothing to learn"
    ):
        encode_chats(rows, template, max_tokens=8)


def test_what_a_template_refuses_is_dropped_with_its_reason(marked):
    rows = [row(USER, ANSWER), row(USER, MORE, LAST, sample_id=1)]
    report = encode_chats(rows, ChatTemplate(marked, "llama-2")).report
    assert "a.jsonl:2: the chat template refuses it: user and assistant must alternate" in str(report)
    assert "1 conversation from messages (role, content)" in str(report)
