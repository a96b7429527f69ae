"""Scores of generated text: the libraries' own figures, several references, and their limits."""

import sys
from math import exp, log, log2

import pytest
import sacrebleu

from splitcom.errors import MissingExtraError
from splitcom.metrics.quality import TEXT_SCORES, text_scores

TEXTS = ["The Alder is a small pub by the river.", "There is cheap food at the Birch."]
REFERENCES = [
    ["The Alder is a pub near the river.", "By the river is a small pub, the Alder."],
    ["The Birch has cheap food."],
]


def test_bleu_and_chrf_are_sacrebleus():
    scores = text_scores([TEXTS[0]], [REFERENCES[0]])
    references = [[text] for text in REFERENCES[0]]
    assert scores["bleu"] == sacrebleu.corpus_bleu([TEXTS[0]], references).score
    assert scores["chrf"] == sacrebleu.corpus_chrf([TEXTS[0]], references).score


def test_texts_may_have_different_numbers_of_references():
    scores = text_scores(TEXTS, REFERENCES)
    assert set(scores) <= set(TEXT_SCORES)
    assert scores["bleu"] > text_scores(TEXTS, [[texts[0]] for texts in REFERENCES])["bleu"]


def test_the_best_and_the_worst_text():
    best = text_scores(["a b c d e f"], [["a b c d e f", "g"]])
    assert best["bleu"] == pytest.approx(100) and best["rouge_l"] == 1 and best["nist"] > 0
    worst = text_scores(["u v w x y"], [["a b c d e"]])
    assert worst["nist"] == worst["rouge_l"] == 0
    assert text_scores([""], [["a b"]])["bleu"] == 0


def test_texts_shorter_than_the_longest_n_grams_are_scored():
    """Three of four words are right, of 7; after the first, each was certain; and 4 words are too few for 7."""
    penalty = exp(log(0.5) * (log(4 / 7) / log(1.5)) ** 2)
    scores = text_scores(["a b c", "x"], [["a b c d e f"], ["y"]])
    assert scores["nist"] == pytest.approx(3 * log2(7) / 4 * penalty)


def test_no_references_are_refused():
    with pytest.raises(ValueError, match="none may be empty"):
        text_scores(["a"], [[]])


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'splitcom\[eval\]'"):
        text_scores(TEXTS, REFERENCES)
