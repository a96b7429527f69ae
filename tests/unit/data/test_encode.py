"""Tokens, labels and batches."""

import pytest
import torch
from tokenizers import Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast

from splitcom.data import Row, batches, encode, encode_prompt, partition, unknown_marks
from splitcom.data.samples import IGNORED
from splitcom.errors import DataError


def row(prompt: str, response: str, sample_id: int = 0) -> Row:
    return Row(sample_id, prompt, response, {})


def targets(sample, tokenizer) -> str:
    return tokenizer.decode(sample.labels[sample.labels != IGNORED])


def test_loss_is_on_the_response_alone(byte_level, metaspace, rows):
    for tokenizer, start, end in ((byte_level, "", ""), (metaspace, "<s>", "</s>")):
        for sample, source in zip(encode(rows[:5], tokenizer, 1024).samples, rows, strict=False):
            wanted = f"{start}{source.prompt} {source.response}{end}"
            assert tokenizer.decode(sample.input_ids).replace("<s> ", "<s>") == wanted
            assert targets(sample, tokenizer).strip() == f"{source.response}{end}"
            assert sample.sample_id == source.sample_id


def test_a_sample_begins_with_the_ids_of_its_prompt_for_generation(byte_level, metaspace, rows):
    for tokenizer in (byte_level, metaspace):
        (sample,) = encode(rows[:1], tokenizer).samples
        prompt = encode_prompt(rows[0].prompt, tokenizer)
        assert prompt.shape == (1, int((sample.labels == IGNORED).sum()))
        assert torch.equal(sample.input_ids[: prompt.shape[1]], prompt[0])


def test_a_space_at_the_end_of_the_prompt_changes_nothing(byte_level, metaspace):
    for tokenizer in (byte_level, metaspace):
        bare, spaced = encode([row("a fox =>", "jumps"), row("a fox => ", "jumps")], tokenizer).samples
        assert torch.equal(bare.input_ids, spaced.input_ids)


def test_a_response_on_a_new_line_gets_no_space(byte_level):
    (sample,) = encode([row("a fox:\n", "jumps")], byte_level).samples
    assert byte_level.decode(sample.input_ids) == "a fox:\njumps"


def test_plain_text_is_trained_on_from_its_first_word(byte_level, metaspace):
    (sample,) = encode([row("", "the quick brown fox")], byte_level).samples
    assert torch.equal(sample.labels, sample.input_ids)
    (sample,) = encode([row("", "the quick brown fox")], metaspace).samples
    assert sample.input_ids[0] == metaspace.bos_token_id
    assert targets(sample, metaspace) == "the quick brown fox</s>"


def test_truncation_is_reported(metaspace):
    rows = [row("a", "fox", 4), row("a", "the quick brown fox jumps over a lazy dog", 9)]
    whole = encode(rows, metaspace)
    assert not whole.report.truncated_ids
    short, long = (sample.num_tokens for sample in whole.samples)
    cut = encode(rows, metaspace, max_tokens=short)
    assert [sample.num_tokens for sample in cut.samples] == [short, short]
    assert cut.samples[1].input_ids.tolist() == whole.samples[1].input_ids[:short].tolist()
    assert (list(cut.report.truncated_ids), cut.report.num_tokens_cut) == ([9], long - short)
    assert f"1 sample cut to {short} tokens ({long - short} tokens lost)" in str(cut.report)


def test_samples_without_a_response_are_dropped_and_reported(metaspace):
    rows = [row("a fox", "", 0), row("a fox", "jumps", 1), row("over a lazy dog " * 9, "jumps", 2)]
    encoded = encode(rows, metaspace, max_tokens=20)
    assert [sample.sample_id for sample in encoded.samples] == [1]
    assert list(encoded.report.dropped_ids) == [0, 2]
    told = str(encoded.report).splitlines()
    assert "2 samples dropped" in told[0]
    assert told[1:] == [
        "dropped: row 0: data.response is empty",
        "dropped: row 2: the prompt alone has 37 tokens, of 20 (data.max_tokens)",
    ]


def test_nothing_left_is_an_error(metaspace):
    with pytest.raises(DataError, match=r"no sample left of 1 row.*raise data.max_tokens"):
        encode([row("a fox", "")], metaspace)
    with pytest.raises(DataError, match="no rows"):
        encode([], metaspace)
    with pytest.raises(DataError, match="max_tokens is 1"):
        encode([row("a", "fox")], metaspace, max_tokens=1)


def test_spaces_are_no_response_and_a_row_without_its_prompt_teaches_nothing(byte_level):
    lacking = Row(2, " =>", "fox", {}, lacks_prompt=True)
    encoded = encode([row("a", "fox", 0), row("a", "  ", 1), lacking], byte_level)
    assert [sample.sample_id for sample in encoded.samples] == [0] and list(encoded.report.dropped_ids) == [
        1,
        2,
    ]


def test_special_tokens_that_a_template_writes_are_not_doubled(metaspace):
    plain, marked = (
        encode([one], metaspace).samples[0].input_ids.tolist()
        for one in (row("a fox", "jumps"), row("<s>a fox", "<s>jumps</s>\n"))
    )
    assert plain.count(1) == plain.count(2) == 1
    assert (marked.count(1), marked.count(2), marked[-1]) == (1, 1, 2)
    (text,) = encode([row("", "<s>a fox</s>")], metaspace).samples
    assert (text.input_ids == 1).sum() == (text.input_ids == 2).sum() == 1


def test_a_closing_token_that_a_template_writes_is_kept(metaspace):
    assert encode_prompt("a fox</s>", metaspace)[0].tolist().count(2) == 1
    assert encode_prompt("", metaspace).tolist() == [[1]]


def test_a_tokenizer_that_knows_no_latin_letter_still_opens_its_texts():
    words = Tokenizer(models.BPE({"<s>": 0, "</s>": 1, "ф": 2}, []))
    words.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")
    assert encode_prompt("ф", tokenizer).tolist() == [[0, 2]]


def test_marks_that_a_tokenizer_does_not_know_are_found(metaspace):
    assert unknown_marks("<s><|im_start|>{q} <b> </s><|im_start|>", metaspace) == ["<|im_start|>"]


def test_batches_are_padded_to_the_right(metaspace, rows):
    samples = encode(rows, metaspace).samples
    for batch in batches(samples, 6, seed=0):
        assert batch.input_ids.shape == batch.attention_mask.shape == batch.labels.shape
        assert batch.input_ids.shape[1] == batch.lengths.max()
        assert torch.equal(batch.attention_mask.sum(1), batch.lengths)
        for place, sample_id in enumerate(batch.sample_ids):
            sample, length = samples[sample_id], int(batch.lengths[place])
            assert torch.equal(batch.input_ids[place, :length], sample.input_ids)
            assert torch.equal(batch.labels[place, :length], sample.labels)
            assert (batch.labels[place, length:] == IGNORED).all()
            assert (batch.attention_mask[place, :length] == 1).all()


def order(samples, **keys) -> list[int]:
    return [sample_id for batch in batches(samples, 6, **keys) for sample_id in batch.sample_ids]


def test_an_epoch_holds_every_sample_once_in_an_order_of_its_own(metaspace, rows):
    samples = encode(rows, metaspace).samples
    ids = [sample.sample_id for sample in samples]
    assert order(samples) == ids
    orders = [
        order(samples, seed=s, epoch=e, client=c) for s, e, c in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
    ]
    assert all(sorted(one) == ids for one in orders)
    assert len({tuple(one) for one in orders}) == 4
    assert order(samples, seed=0, epoch=0, client=0) == orders[0]
    with pytest.raises(DataError, match="batch_size is 0"):
        batches(samples, 0)


def test_the_shortest_of_a_batch_come_first_if_it_is_asked_for(metaspace, rows):
    samples = encode(rows, metaspace).samples
    drawn, ordered = batches(samples, 6, seed=0), batches(samples, 6, seed=0, by_length=True)
    assert [sorted(batch.sample_ids) for batch in drawn] == [sorted(batch.sample_ids) for batch in ordered]
    assert all(batch.lengths.diff().ge(0).all() for batch in ordered)
    assert not all(batch.lengths.diff().ge(0).all() for batch in drawn)


def test_a_sample_id_survives_limit_partition_and_shuffle(metaspace, rows):
    text = {r.sample_id: r.response for r in rows}
    split = partition(encode(rows[:30], metaspace, 1024).samples, 3, seed=5)
    for part in split.parts:
        for batch in batches(part, 4, seed=1, epoch=2):
            for place, sample_id in enumerate(batch.sample_ids):
                labels = batch.labels[place]
                decoded = metaspace.decode(labels[labels != IGNORED], skip_special_tokens=True)
                assert decoded.strip() == text[sample_id]
