"""Where rows come from: what the name of a source means, and its records; knows no prompt and no tokenizer.

rows.csv, rows.tsv.gz, rows.jsonl, rows.json, rows.parquet   a file
folder                     of such files, or one that the package `datasets` has written
team/name, team/name:en    a data set on the hub, and a configuration of it
name[validation]           a split of a folder or of a data set on the hub; without, "train"
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitcom.data.files import FORMATS, Record, format_of, read_file
from splitcom.errors import DataError, MissingExtraError
from splitcom.hub import ask_hub

TRAIN = "train"
_NAME = re.compile(r"(?P<base>.+?)(:(?P<config>[\w.\-]+))?(\[(?P<split>[^\[\]]+)\])?")
_HUB_NAME = re.compile(r"\w[\w.\-]*(/\w[\w.\-]*)?")
_SPLIT_OF_FILE = re.compile(r"(train|test|validation|valid|val|dev|eval)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """What a name stands for: a file or folder at `path`, or a data set on the hub."""

    name: str
    path: Path | None
    config: str | None = None
    split: str | None = None

    def is_same(self, other: "Source") -> bool:
        """Whether both stand for the same rows, by whatever path."""
        if (self.split or TRAIN) != (other.split or TRAIN) or self.config != other.config:
            return False
        if self.path is None or other.path is None:
            return self.path is other.path and self.name == other.name
        return self.path.samefile(other.path)


def find_source(source: str | Path) -> Source:
    """Tell what a source's name stands for; DataError if it can only be a file and there is none.

    >>> find_source("team/Open-Data-2.5:en[test]")
    Source(name='team/Open-Data-2.5', path=None, config='en', split='test')
    """
    name = str(source)
    if not name.strip():
        raise DataError(
            "data.source is empty; name a file, a folder or a data set on the hub, or 'generated'"
        )
    if (path := _existing(name)) is not None:
        if not path.is_file() and not path.is_dir():
            raise DataError(
                f"{name}: a pipe or a device; write the rows to a file, since they are read more than once"
            )
        return Source(name, path)
    parts = _NAME.fullmatch(name)
    base, config, split = (name, None, None) if parts is None else parts.group("base", "config", "split")
    if (path := _existing(base)) is not None:
        if config is not None or path.is_file():
            raise DataError(
                f"{name}: {base} is here, but files have no splits, and only data sets on the hub have "
                f"configurations; write {base} alone"
            )
        return Source(base, path, None, split)
    if not _HUB_NAME.fullmatch(base) or _looks_like_a_file(base):
        raise DataError(f"{name}: no such file or folder (working directory: {Path.cwd()}); correct the path")
    return Source(base, None, config, split)


def read_source(source: Source) -> Iterator[Record]:
    """Yield a source's records in its order, with the place of each.

    Raises:
        DataError: it cannot be read; names file and line.
        MissingExtraError: it takes the package `datasets`, which is not installed.
    """
    if source.path is None:
        return _read_hub(source)
    if source.path.is_dir():
        return _read_folder(source.path, source.split)
    return read_file(source.path)


def _existing(name: str) -> Path | None:
    try:
        path = Path(name).expanduser()
        return path if path.exists() else None
    except (OSError, RuntimeError):  # a name too long for a file; a home that is not known
        return None


def _looks_like_a_file(name: str) -> bool:
    """Whether a name's ending is that of a file: one that is read here, or letters with no team before them."""
    suffix = Path(name).suffix
    return format_of(Path(name)) is not None or ("/" not in name and suffix[1:].isalpha())


def _read_folder(folder: Path, split: str | None) -> Iterator[Record]:
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        yield from _read_saved(folder, split)
        return
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        raise DataError(f"{folder}: a model, not rows; name your rows here, and this folder in model.source")
    try:
        files = sorted(file for file in folder.iterdir() if file.is_file() and format_of(file) is not None)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error
    if not files:
        raise DataError(f"{folder}: no file that can be read in this folder; expected {FORMATS}")
    named = {file: _SPLIT_OF_FILE.match(file.name) for file in files}
    if split is not None or any(named.values()):
        wanted = split or TRAIN
        files = [file for file, found in named.items() if found is not None and found[0].lower() == wanted]
        if not files:
            raise DataError(
                f"{folder}: no file of the split {wanted!r} among {', '.join(file.name for file in named)}; write "
                f"{folder}[NAME] with the first word of a file's name, or give one file"
            )
    for file in files:
        yield from read_file(file)


def _read_saved(folder: Path, split: str | None) -> Iterator[Record]:
    """Read a folder that `save_to_disk` has written, of one split or of several."""
    datasets = _datasets(f"{folder}: a folder written by the package 'datasets'")
    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # pyarrow and datasets raise many unrelated types
        raise DataError(f"{folder}: cannot be read as a saved data set: {_first_line(error)}") from error
    if isinstance(saved, dict):
        if (split or TRAIN) not in saved:
            raise DataError(
                f"{folder}: no split {split or TRAIN!r}; write {folder}[NAME] with {_any_of(saved)}"
            )
        saved = saved[split or TRAIN]
    elif split is not None:
        raise DataError(f"{folder}[{split}]: this folder holds one split alone; leave out [{split}]")
    for index, record in enumerate(saved):
        yield f"{folder} row {index}", record


def _read_hub(source: Source) -> Iterator[Record]:
    name, split = source.name, source.split or TRAIN
    ask_hub(name, "dataset")
    datasets = _datasets(f"{name!r} is no file or folder here; to look for it on the hub")
    try:
        found = datasets.load_dataset(name, source.config, split=split, trust_remote_code=False)
    except (
        Exception
    ) as error:  # datasets, huggingface_hub, the network: dozens of types, all the same to the user
        raise DataError(
            f"{name!r} is no file or folder here, and as a data set on the hub it cannot be loaded: "
            f"{_first_line(error)}; check the name, the configuration ({name}:NAME), the split ({name}[{split}]) and "
            "the network"
        ) from error
    for index, record in enumerate(found):
        yield f"{name}[{split}] row {index}", record


def _datasets(what: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError(what, "hub", error) from error
    return datasets


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _any_of(names: Any) -> str:
    return " or ".join(sorted(map(str, names)))
