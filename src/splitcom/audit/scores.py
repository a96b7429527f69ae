"""How much of a text is recovered: tokens, whole samples, order, and what is most telling in it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Score:
    """Shares of 0 to 1; None if there is nothing of that kind.

    `tokens` are right at their place, of `top5` one of the first five guesses is; `numbers` and `names` are those whose
    text has a digit, or begins with a capital letter; `whole` are samples all of whose tokens are right; `rouge_l` is
    the F-measure of the longest common subsequence of tokens, a mean over samples (Lin 2004).
    """

    tokens: float
    top5: float
    numbers: float | None
    names: float | None
    whole: float
    rouge_l: float


def score(ranked: Sequence[Tensor], truths: Sequence[Tensor], text_of: Callable[[int], str]) -> Score:
    """Compare guessed tokens [T, K], the likeliest first, with true ones [T] of each sample.

    `text_of` gives the text of a token.
    """
    guesses = [guess[:, 0] for guess in ranked]
    near = [
        (guess[:, :5] == truth[:, None]).any(1).tolist() for guess, truth in zip(ranked, truths, strict=True)
    ]
    right = [(guess == truth).tolist() for guess, truth in zip(guesses, truths, strict=True)]
    texts = [[text_of(token).strip() for token in truth.tolist()] for truth in truths]
    pairs = [
        (text, hit)
        for row, hits in zip(texts, right, strict=True)
        for text, hit in zip(row, hits, strict=True)
    ]
    sequences = zip(guesses, truths, strict=True)
    common = [_common(guess.tolist(), truth.tolist()) for guess, truth in sequences]
    return Score(
        tokens=_share([hit for _, hit in pairs]) or 0.0,
        top5=_share([hit for hits in near for hit in hits]) or 0.0,
        numbers=_share([hit for text, hit in pairs if any(map(str.isdigit, text))]),
        names=_share([hit for text, hit in pairs if text[:1].isupper()]),
        whole=_share([all(hits) for hits in right]) or 0.0,
        rouge_l=sum(length / len(truth) for length, truth in zip(common, truths, strict=True)) / len(truths),
    )


def _share(hits: Sequence[bool]) -> float | None:
    return sum(hits) / len(hits) if hits else None


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """The length of the longest common subsequence; both are equally long, so recall, precision and F are alike."""
    row = [0] * (len(other) + 1)
    for token in one:
        before = 0
        for place, match in enumerate(other, 1):
            before, row[place] = row[place], before + 1 if token == match else max(row[place], row[place - 1])
    return row[-1]
