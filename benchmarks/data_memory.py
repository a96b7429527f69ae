"""Memory that rows take: peak of a process that reads and encodes sources of different sizes, and rows per second.

    python benchmarks/data_memory.py                            JSON Lines and Parquet of 10 and 400 MB
    python benchmarks/data_memory.py --megabytes 10,4000 --formats jsonl,csv,jsonl.gz,parquet

Makes sources of rows of about 1 kB in a temporary folder (Parquet as large as the JSON Lines would be before it packs
them). A process for each source loads it as a run does, `load_texts` with the bundled tokenizer: reads, shuffles, sets
rows aside, encodes, and parts them over clients. Then it makes all batches of a client's round. Peaks are of resident
memory (VmHWM, Linux) above that after the imports. Target: the largest source takes less than 50 MB more than the
smallest.
"""

import argparse
import csv
import gzip
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from splitcom.data import generate

TARGET_MB = 50
WORDS = 190  # of a row: about 1 kB
CHUNK = 1000  # rows of a Parquet file that are written together


def rows(megabytes: int) -> Iterator[dict[str, str]]:
    """Rows of two columns, of so many MB as JSON Lines."""
    draw = random.Random(0)
    words = " ".join(pair["text"] for pair in generate("inns", 500, 0)).split()
    left = megabytes * 10**6
    while left > 0:
        text = draw.choices(words, k=WORDS)
        row = {"question": " ".join(text[: WORDS // 2]), "answer": " ".join(text[WORDS // 2 :])}
        left -= len(json.dumps(row)) + 1
        yield row


def write(path: Path, megabytes: int) -> None:
    """Write a source of the kind that its name tells."""
    kind = path.name.partition(".")[2]
    if kind == "parquet":
        import pyarrow
        from pyarrow.parquet import ParquetWriter

        left = rows(megabytes)
        with ParquetWriter(
            path, pyarrow.schema(dict.fromkeys(("question", "answer"), pyarrow.string()))
        ) as file:
            while some := list(islice(left, CHUNK)):
                file.write_batch(pyarrow.RecordBatch.from_pylist(some))
        return
    with (gzip.open if kind.endswith(".gz") else open)(path, "wt", encoding="utf-8", newline="") as file:
        if kind.startswith("csv"):
            writer = csv.DictWriter(file, ["question", "answer"])
            writer.writeheader()
            writer.writerows(rows(megabytes))
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows(megabytes))


def peak_mb() -> float:
    """Peak of resident memory so far."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1000


def load(path: str) -> None:
    """Load a source and make a round's batches; prints what it took as JSON."""
    from splitcom.config import Config
    from splitcom.models import load_tokenizer
    from splitcom.parties.texts import load_texts
    from splitcom.training.plan import round_batches

    config = Config().override(
        {
            "data.source": path,
            "data.prompt": "{question} =>",
            "data.response": "answer",
            "data.max_tokens": 512,
        }
    )
    load_tokenizer(config.model.source)("a")
    before = peak_mb()
    start = time.perf_counter()
    texts = load_texts(config)
    seconds = time.perf_counter() - start
    loaded = peak_mb()
    tokens = sum(
        int(batch.lengths.sum()) for batch in round_batches(texts.partition.parts[0], config, "a", 1)
    )
    number = texts.train.report.num_samples + texts.held_out.report.num_samples
    print(
        json.dumps(
            {
                "rows": number,
                "rows_per_s": number / seconds,
                "import_mb": before,
                "loaded_mb": loaded - before,
                "peak_mb": peak_mb() - before,
                "tokens_of_a_client": tokens,
            }
        )
    )


def main() -> None:
    """Print a line for each source."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", default="10,400", help="sizes as JSON Lines")
    parser.add_argument("--formats", default="jsonl,parquet", help="endings of file names")
    parser.add_argument("--out", type=Path, help="a JSON file to write")
    parser.add_argument("--load", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load is not None:
        load(options.load)
        return
    sizes = sorted(map(int, options.megabytes.split(",")))
    print(f"{'source':>16} {'MB':>6} {'rows':>9} {'rows/s':>7} {'loaded: MB':>11} {'and a round: MB':>16}")
    results = []
    for kind in options.formats.split(","):
        peaks = []
        for size in sizes:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"rows.{kind}"
                write(path, size)
                command = [sys.executable, __file__, "--load", str(path)]
                found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            peaks.append(found["peak_mb"])
            results.append({"source": kind, "megabytes": size, **found})
            print(
                f"{kind:>16} {size:>6} {found['rows']:>9,} {found['rows_per_s']:>7.0f} "
                f"{found['loaded_mb']:>11.0f} {found['peak_mb']:>16.0f}",
                flush=True,
            )
        more = peaks[-1] - peaks[0]
        verdict = "met" if more < TARGET_MB else "MISSED"
        print(f"{kind:>16}: {more:.0f} MB more for the largest; target, below {TARGET_MB} MB: {verdict}")
    if options.out is not None:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
