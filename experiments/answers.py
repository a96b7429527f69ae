"""What a model answers before and after training: the first answers of a run on GSM8K as they are, and scores of all.

    python experiments/answers.py runs/answers [--shown 3]

The run is one of `answers_smollm2.toml`, or another with `evaluation.generate` on GSM8K, whose `data.prompt` has the
column `question`. "Form" is the share of answers that end in `#### number`, as GSM8K's do; "right" is the share whose
last number is that of the reference, whatever the form. ROUGE-L and BLEU need the extra `eval`.
"""

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path

from splitcom.config import Config
from splitcom.metrics.quality import text_scores

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
FORM = re.compile(rf"#### {NUMBER.pattern}\s*$")


def last_number(text: str) -> float | None:
    """The last number of a text; None if it has none.

    >>> last_number("She has 3 of 1,200.50."), last_number("none")
    (1200.5, None)
    """
    found = NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def scores_of(answers: list[str], references: list[str]) -> dict[str, float]:
    """Shares in form and right, and how near the words are to those of the references."""
    pairs = list(zip(answers, references, strict=True))
    scores = text_scores(answers, [[text] for text in references])
    return {
        "form": sum(FORM.search(answer) is not None for answer in answers) / len(answers),
        "right": sum(last_number(answer) == last_number(text) for answer, text in pairs) / len(pairs),
        "ROUGE-L": scores["rouge_l"],
        "BLEU": scores["bleu"],
    }


def shown(pair: dict[str, str], template: str) -> Iterator[str]:
    """A question and its answers in Markdown, unedited; code keeps what would be syntax."""
    before, _, after = template.partition("{question}")
    yield f"**{pair['prompt'].removeprefix(before).removesuffix(after)}**"
    for key in ("before", "after", "reference"):
        yield f"{key.capitalize()}:\n```text\n{pair[key]}\n```"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--shown", type=int, default=3, help="so many of the first questions")
    arguments = parser.parse_args()
    result = json.loads((arguments.run / "result.json").read_text(encoding="utf-8"))
    rounds = [json.loads(line) for line in (arguments.run / "metrics.jsonl").read_text().splitlines()]
    template = Config.from_toml((arguments.run / "config.toml").read_text(encoding="utf-8")).data.prompt
    pairs = result["samples"]
    references = [pair["reference"] for pair in pairs]
    before, after = (scores_of([pair[key] for pair in pairs], references) for key in ("before", "after"))
    print(f"| | before | after, {len(pairs)} answers |\n| --- | ---: | ---: |")
    first = next(line["eval_loss"] for line in rounds if line["round"] == 0)
    print(f"| held-out loss | {first:.4f} | {result['eval']['loss']:.4f} |")
    for name in before:
        print(f"| {name} | {before[name]:.4g} | {after[name]:.4g} |")
    for pair in pairs[: arguments.shown]:
        print("", *shown(pair, template), sep="\n\n")


if __name__ == "__main__":
    main()
