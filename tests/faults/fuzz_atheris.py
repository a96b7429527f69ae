"""The same targets under atheris, which looks for frames that reach new lines of the package.

    pip install atheris; python -m tests.faults.fuzz_atheris FOLDER -runs=100000

FOLDER gets the corpus and what failed; further options are libFuzzer's. An input's first byte chooses the target.
"""

import sys
from contextlib import suppress
from pathlib import Path


def main() -> None:
    import atheris
    import torch  # noqa: F401  (before the imports that are instrumented, so that it is not)

    with atheris.instrument_imports(include=["splitcom.codecs", "splitcom.protocol", "splitcom.transports"]):
        from .campaign import REFUSALS
        from .targets import all_targets
    targets = all_targets()

    def feed(data: bytes) -> None:
        number, frame = (data or b"\0")[0], data[1:]
        with suppress(*REFUSALS):
            targets[number % len(targets)].feed(frame)

    folder = Path(sys.argv[1])
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, target in enumerate(targets):
        for index, frame in enumerate(target.corpus):
            (corpus / f"{number}-{index}").write_bytes(bytes([number]) + frame)
    limits = ["-timeout=10", "-rss_limit_mb=2048", "-malloc_limit_mb=256", "-max_len=20000"]
    options = [*limits, f"-artifact_prefix={folder}/", *sys.argv[2:]]
    atheris.Setup([sys.argv[0], str(corpus), *options], feed)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
