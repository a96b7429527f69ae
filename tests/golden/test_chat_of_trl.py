"""Token ids and masks of conversations beside those of TRL's trainer, frozen for five models' own templates.

Run as a program where `trl` is installed, this file freezes what it says: `python tests/golden/test_chat_of_trl.py`.
"""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

import splitcom
from splitcom.data import ChatTemplate, Message, template_text
from splitcom.data.chat import ChatError, Conversation
from splitcom.data.samples import IGNORED

FILE = Path(__file__).with_name("chat_of_trl.json")
BUNDLED = Path(splitcom.__file__).parent / "models" / "bundled" / "tokenizer.json"
MARKS = [
    "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>",
    "<end_of_turn>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", "<|endoftext|>", "<think>", "</think>",
]  # fmt: skip
MODELS = ("llama3", "gemma", "phi3", "qwen2_5", "qwen3")
CONVERSATIONS: dict[str, list[tuple[str, str]]] = {
    "one turn": [("user", "How much is 2 + 3?"), ("assistant", "5, of course.")],
    "three turns": [
        ("user", "Hi "), ("assistant", " Hello."), ("user", "Why?\n\nAnd when?"), ("assistant", "line\nline  two"),
        ("user", "And?"), ("assistant", "\nSo long!\n"),
    ],
    "a system prompt": [
        ("system", "Be short."), ("user", "Hi"), ("assistant", "Hello."), ("user", "Bye"), ("assistant", "Bye!"),
    ],
    "the user last": [("user", "Hi"), ("assistant", "Hello."), ("user", "Bye")],
    "thoughts": [
        ("user", "Hi"), ("assistant", "<think>\nhm\n</think>\n\nHello."), ("user", "Bye"),
        ("assistant", "<think>\nso\n</think>\n\nSo long!"),
    ],
}  # fmt: skip


def tokenizer() -> PreTrainedTokenizerFast:
    """The bundled one, with the marks of the five models."""
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_file(str(BUNDLED)), bos_token="<s>", eos_token="<|endoftext|>"
    )
    made.add_special_tokens({"additional_special_tokens": MARKS})
    return made


FROZEN = json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {"templates": {}, "cases": []}
CASES = [pytest.param(case, id=f"{case['model']}, {case['conversation']}") for case in FROZEN["cases"]]


def ours(template: str, turns: list[tuple[str, str]]) -> tuple[list[int], list[int]]:
    """Ids and mask by a template of the frozen file, or the text of a built-in one."""
    messages = tuple(Message(role, content) for role, content in turns)
    text = FROZEN["templates"].get(template) or template_text(template)
    ids, labels = ChatTemplate(tokenizer(), text).encode(Conversation(messages, (), ""), "assistant")
    return ids, [int(label != IGNORED) for label in labels]


@pytest.mark.parametrize("case", CASES)
def test_a_template_that_marks_what_is_learnt_gives_what_trl_gives(case):
    ids, mask = ours(case["model"] + "_training", CONVERSATIONS[case["conversation"]])
    assert (ids, mask) == (case["ids"], case["mask"])


@pytest.mark.parametrize("case", CASES)
def test_a_models_own_template_gives_it_but_for_white_space_around_a_turn(case):
    turns = CONVERSATIONS[case["conversation"]]
    several = sum(role == "assistant" for role, _ in turns) > 1 or turns[-1][0] == "user"
    own = case["model"]
    if own == "qwen3" and several:  # it writes the thoughts of the last answer alone
        with pytest.raises(ChatError, match=r"another way if more messages follow.*'qwen3' for Qwen3"):
            ours(own + "_original", turns)
        own = "qwen3"
    else:
        own += "_original"
    ids, mask = ours(own, turns)
    assert ids == case["ids"]
    differ = [
        place for place, (one, other) in enumerate(zip(mask, case["mask"], strict=True)) if one != other
    ]
    assert not any(mask[place] for place in differ)  # TRL learns some more
    assert not tokenizer().decode([ids[place] for place in differ]).strip()


def freeze() -> None:
    """Write what TRL gives."""
    import trl
    from jinja2 import TemplateError
    from trl.chat_template_utils import get_training_chat_template

    folder = Path(trl.__file__).parent / "chat_templates"
    templates: dict[str, str] = {}
    cases = []
    for model in MODELS:
        words = tokenizer()
        words.chat_template = templates[f"{model}_original"] = (folder / f"{model}.jinja").read_text("utf-8")
        templates[f"{model}_training"] = training = get_training_chat_template(words)
        for name, turns in CONVERSATIONS.items():
            try:
                made = words.apply_chat_template(
                    [{"role": role, "content": content} for role, content in turns],
                    chat_template=training,
                    tokenize=True,
                    return_dict=True,
                    return_assistant_tokens_mask=True,
                )
            except TemplateError:
                continue  # Gemma takes no system prompt
            cases.append(
                {
                    "model": model,
                    "conversation": name,
                    "ids": made["input_ids"],
                    "mask": made["assistant_masks"],
                }
            )
    source = f"TRL {trl.__version__} (Apache-2.0), trl/chat_templates and get_training_chat_template"
    frozen = {"source": source, "templates": templates, "cases": cases}
    FILE.write_text(json.dumps(frozen, indent=1).replace("\n    ", " ") + "\n", encoding="utf-8")


if __name__ == "__main__":
    freeze()
