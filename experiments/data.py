"""Fetch the public data sets of the experiments from the hub, and write them as the experiments name them.

    pip install 'splitcom[hub]'
    python experiments/data.py assets          # then: export SPLITCOM_ASSETS=assets

GSM8K (MIT), E2E NLG (CC BY-SA 4.0) and SST-2, some 20 MB in all. What is there already is not fetched again.
"""

import argparse
import csv
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

Load = Callable[..., Iterable[Mapping[str, Any]]]


class Source(NamedTuple):
    """A split of a data set on the hub, and which of its columns become which."""

    name: str
    configuration: str | None
    split: str
    columns: Mapping[str, str]
    revision: str | None = None


_E2E = {"meaning_representation": "mr", "human_reference": "ref"}
_SST2 = {"sentence": "sentence", "label": "label"}
_GSM8K = {"question": "question", "answer": "answer"}
_AS_FILES = "refs/convert/parquet"  # the set itself is a program, which is not run
FILES = {
    "data/gsm8k/train.jsonl": Source("openai/gsm8k", "main", "train", _GSM8K),
    "data/gsm8k/test.jsonl": Source("openai/gsm8k", "main", "test", _GSM8K),
    "data/e2e_nlg/trainset.csv": Source("tuetschek/e2e_nlg", None, "train", _E2E, _AS_FILES),
    "data/e2e_nlg/devset.csv": Source("tuetschek/e2e_nlg", None, "validation", _E2E, _AS_FILES),
    "data/e2e_nlg/testset_w_refs.csv": Source("tuetschek/e2e_nlg", None, "test", _E2E, _AS_FILES),
    "data/sst2/train_full.tsv": Source("stanfordnlp/sst2", None, "train", _SST2),
    "data/sst2/dev.tsv": Source("stanfordnlp/sst2", None, "validation", _SST2),
}


def fetch(folder: Path, load: Load) -> list[Path]:
    """Write what is missing in the folder; gives what was written. `load` is `datasets.load_dataset`."""
    written = []
    for name, source in FILES.items():
        path = folder / name
        if path.exists():
            continue
        rows = load(source.name, source.configuration, split=source.split, revision=source.revision)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        with partial.open("w", encoding="utf-8", newline="") as file:
            _write(file, path.suffix, source.columns, rows)
        partial.rename(path)
        written.append(path)
    return written


def _write(file: Any, suffix: str, columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> None:
    kept = ({new: row[old] for old, new in columns.items()} for row in rows)
    if suffix == ".jsonl":
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
        return
    writer = csv.DictWriter(file, list(columns.values()), delimiter="\t" if suffix == ".tsv" else ",")
    writer.writeheader()
    writer.writerows(kept)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder

    from datasets import load_dataset

    for path in fetch(folder, load_dataset):
        print(path)
