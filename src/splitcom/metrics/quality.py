"""How good generated text is: BLEU, NIST, METEOR, ROUGE-L and chrF against several references (extra `eval`)."""

from collections.abc import Sequence
from typing import Any

from splitcom.errors import MissingExtraError

TEXT_SCORES = ("bleu", "nist", "meteor", "rouge_l", "chrf")


def text_scores(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Score `hypotheses[i]` against all of `references[i]`, over the whole corpus; names as in TEXT_SCORES.

    - bleu: 0 to 100, sacrebleu's defaults (13a tokenisation, case matters).
    - chrf: 0 to 100, sacrebleu's chrF2.
    - nist: from 0, not bounded; nltk's, up to 5-grams, on the 13a tokens (Doddington 2002).
    - rouge_l: 0 to 1, rouge-score's F-measure, the best of a text's references, averaged.
    - meteor: 0 to 1, nltk's, averaged; left out where WordNet, which it needs, is not installed
      (`python -m nltk.downloader wordnet`).

    Raises ValueError if a text has no reference, MissingExtraError if the extra `eval` is not installed.
    """
    if not hypotheses or len(hypotheses) != len(references) or not all(references):
        raise ValueError(
            f"{len(hypotheses)} texts with {len(references)} lists of references; none may be empty"
        )
    RougeScorer, BLEU, CHRF, Tokenizer13a = _scorers()
    tokens = Tokenizer13a()
    split = [tokens(text).split() for text in hypotheses]
    split_references = [[tokens(text).split() for text in texts] for texts in references]
    most = max(map(len, references))
    # sacrebleu wants the first references of all texts, then the second ones, ...; None if there are fewer
    columns = [[texts[i] if i < len(texts) else None for texts in references] for i in range(most)]
    rouge = RougeScorer(["rougeL"], use_stemmer=True)
    scores = {
        "bleu": BLEU().corpus_score(hypotheses, columns).score,
        "nist": _nist(split, split_references),
        "meteor": _meteor(split, split_references),
        "rouge_l": _mean(
            [
                rouge.score_multi(texts, hypothesis)["rougeL"].fmeasure
                for hypothesis, texts in zip(hypotheses, references, strict=True)
            ]
        ),
        "chrf": CHRF().corpus_score(hypotheses, columns).score,
    }
    return {name: float(score) for name, score in scores.items() if score is not None}


def check_scorers() -> None:
    """Raise MissingExtraError if the extra `eval` is not installed."""
    _scorers()


def _scorers() -> tuple[Any, ...]:
    try:
        from rouge_score.rouge_scorer import RougeScorer
        from sacrebleu.metrics import BLEU, CHRF
        from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    except ImportError as error:
        raise MissingExtraError("scoring generated text", "eval", error) from error
    return RougeScorer, BLEU, CHRF, Tokenizer13a


def _nist(split: list[list[str]], split_references: list[list[list[str]]]) -> float:
    from nltk.translate.nist_score import corpus_nist

    if not _has_words(split, split_references):
        return 0.0
    # n-grams that no text is long enough for add nothing; nltk divides by their number
    return float(corpus_nist(split_references, split, min(5, max(map(len, split)))))


def _meteor(split: list[list[str]], split_references: list[list[list[str]]]) -> float | None:
    from nltk.translate.meteor_score import meteor_score

    try:
        return _mean(
            [meteor_score(texts, tokens) for tokens, texts in zip(split, split_references, strict=True)]
        )
    except LookupError:  # no WordNet
        return None


def _has_words(split: list[list[str]], split_references: list[list[list[str]]]) -> bool:
    """Whether any word is right; nltk's NIST divides by zero otherwise."""
    return any(
        set(tokens) & {word for text in texts for word in text}
        for tokens, texts in zip(split, split_references, strict=True)
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
