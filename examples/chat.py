"""Your own conversations: train on them, and see how the model answers before and after.

    python examples/chat.py                              ten conversations of a shop, with the bundled model
    python examples/chat.py conversations.jsonl MODEL    yours, with a model from the hub or from a folder

Three clients share the conversations. The command line does the same: docs/tutorials/chat.md.
"""

import json
import sys
from pathlib import Path
from typing import Any

import splitcom

SHOP = {
    "When do you open?": "At nine.",
    "When do you close?": "At six.",
    "Do you open on Sunday?": "No, we do not.",
    "Where are you?": "In the High Street.",
    "Do you sell tea?": "Yes, green and black.",
    "Do you sell coffee?": "No, only tea.",
    "Do you sell cups?": "Yes, white ones.",
    "May I bring my dog?": "Yes, you may.",
    "Do you take cards?": "Yes, all of them.",
    "Can I book a table?": "No, there are none.",
}


def shop() -> list[dict[str, Any]]:
    """The conversations in the form that OpenAI uses; ShareGPT's and Alpaca's are read too."""
    return [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
        for asked, said in SHOP.items()
    ]


def settings(model: str, num_conversations: int) -> splitcom.Config:
    """What differs from the defaults: `splitcom settings` lists all of them."""
    changes: dict[str, Any] = {
        "model.source": model,
        "data.format": "chat",
        "data.samples": None,  # all of them
        "data.held_out_samples": max(1, num_conversations // 5),
        "training.rounds": 5,
    }
    if model == "bundled":  # it has no chat template, and is so small that it learns at a high rate only
        changes |= {"data.chat_template": "chatml", "training.lr": 0.01}
    return splitcom.Config().override(changes)


def main(file: str = "", model: str = "bundled") -> None:
    lines = Path(file).read_text(encoding="utf-8").splitlines() if file else []
    conversations = [json.loads(line) for line in lines] or shop()
    run = splitcom.train(settings(model, len(conversations)), "runs/chat", data=conversations)
    for text in run.result["samples"]:
        print(f"{text['prompt']}\n  before  {text['before']}\n  after   {text['after']}")
    print(f"held-out loss {run.result['eval']['initial_loss']:.2f}, now {run.result['eval']['loss']:.2f}")
    print(
        f"{run.result['bytes']['total']:,} bytes sent, {run.result['saving']['total']:.0%} less than without codecs"
    )
    splitcom.export_run(run.folder, "runs/chat-adapter")
    print("the adapter is in runs/chat-adapter: PeftModel.from_pretrained loads it")


if __name__ == "__main__":
    main(*sys.argv[1:])
