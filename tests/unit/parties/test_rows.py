"""Rows on the disk give what a list of all of them would: the same samples, splits and order, of any format."""

import csv
import gzip
import json
import random

import numpy as np
import pytest

from splitcom.data import encode, read_rows
from splitcom.errors import DataError
from splitcom.methods.forecast import forecast
from splitcom.methods.preview import preview
from splitcom.methods.proposal import propose
from splitcom.models import load_tokenizer
from splitcom.parties.rows import Look, load_all_rows
from splitcom.parties.texts import load_texts
from splitcom.seeds import derive_seed
from splitcom.training.plan import chunk_batches, round_batches
from splitcom.transports.link import Link

ROWS = [{"q": f"question {i}", "a": f"answer {i % 7}", "who": f"w{i % 5}"} for i in range(40)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def write(folder, kind):
    path = folder / f"rows.{kind}"
    if kind == "jsonl.gz":
        path.write_bytes(gzip.compress(LINES.encode()))
    elif kind == "json":
        path.write_text(json.dumps(ROWS))
    elif kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(
            pyarrow.Table.from_pylist(ROWS), path, row_group_size=7
        )
    elif kind in ("csv", "tsv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ROWS[0], delimiter="\t" if kind == "tsv" else ",")
            writer.writeheader()
            writer.writerows(ROWS)
    else:
        path.write_text(LINES)
    return path


@pytest.fixture
def config(tiny_config, tmp_path):
    columns = {"data.source": str(write(tmp_path, "jsonl")), "data.prompt": "{q} =>", "data.response": "a"}
    return tiny_config.override(columns | {"data.samples": 30, "data.held_out_samples": 6})


def shown(samples):
    return [(one.sample_id, one.input_ids.tolist(), one.labels.tolist(), one.row) for one in samples]


def of_lists(config, path):
    """Samples of each client and held-out ones, of rows that are all in memory."""
    rows = list(read_rows(path, template="{q} =>", response_column="a"))
    random.Random("splitcom/train").shuffle(rows)
    tokenizer = load_tokenizer(config.model.source)
    held_out, train = (
        encode(part, tokenizer, config.data.max_tokens).samples for part in (rows[:6], rows[6:36])
    )
    clients = config.federation.clients
    owners = np.random.default_rng(derive_seed(config.seed, "partition")).permutation(np.arange(30) % clients)
    return [[train[i] for i in np.flatnonzero(owners == client)] for client in range(clients)], held_out


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "json", "csv", "tsv", "parquet"])
def test_samples_and_splits_are_those_of_rows_in_memory(config, tmp_path, kind):
    path = write(tmp_path, kind)
    texts = load_texts(config.override({"data.source": str(path)}))
    parts, held_out = of_lists(config, path)
    assert [shown(part) for part in texts.partition.parts] == [shown(part) for part in parts]
    assert shown(texts.held_out.samples) == shown(held_out)


def test_batches_are_the_same_whenever_they_are_asked_for(config):
    config = config.override({"training.local_epochs": 2, "training.batch_size": 4})
    samples = load_texts(config).partition.parts[0]
    plan = round_batches(samples, config, "a", 1)
    every = [batch.sample_ids for batch in plan]
    assert len(every) == len(plan) == 2 * -(-len(samples) // 4)
    assert [plan[index].sample_ids for index in range(-len(plan), 0)] == every
    assert [batch.sample_ids for batch in plan[1:3]] == every[1:3]
    third = [batch.sample_ids for batch in chunk_batches(samples, config, "a", 1, range(len(plan)))]
    assert third == every  # a round that goes on has the epochs of one that does not
    assert [batch.sample_ids for batch in chunk_batches(samples, config, "a", 1, range(2, 5))] == every[2:5]


def test_it_is_heard_how_many_rows_are_read_and_encoded(config, monkeypatch):
    monkeypatch.setattr("splitcom.data.load.TOLD_EVERY", 20)
    heard = []
    load_texts(config, Look(lambda *what: heard.append(what)))
    assert heard == [
        ("reading rows", 20, 0), ("reading rows", 40, 0), ("reading rows", 40, 40),
        ("encoding rows to train on", 20, 30), ("encoding rows to train on", 30, 30), ("encoding rows held out", 6, 6),
    ]  # fmt: skip


def test_what_is_just_looked_at_ends_with_the_first_rows_and_says_so(config, monkeypatch, tmp_path):
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_text(LINES + "{\n")
    config = config.override({"data.source": str(damaged)})
    with pytest.raises(DataError, match=r"damaged\.jsonl:41: not JSON"):
        load_all_rows(config)
    monkeypatch.setattr("splitcom.parties.rows._FIRST_CHARACTERS", 500)
    monkeypatch.setattr("splitcom.methods.proposal._LOOKED_AT", 30)
    said = f"only the first 25 rows of {damaged} are looked at"
    assert said in preview(config, 1, alone=True).report and said in preview(config, 1).report
    assert said in forecast(config, Link.parse("10/40")).data
    columns = {"data.prompt": "{q} =>", "data.response": "a"}
    assert propose(str(damaged), "bundled", changes=columns).settings["data.held_out_samples"] == 6
