"""A run's adapter as a folder that PEFT's tools load: written, checked, read, merged; knows no training.

The head of a classifier is part of it, as peft's `modules_to_save`.
"""

import json
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from splitcom.checksums import NAME, fault_in, write_checksums
from splitcom.durable import write_atomic
from splitcom.errors import AdapterError
from splitcom.models.adapters import State, head_module, leaf, linear_modules
from splitcom.models.anatomy import Anatomy, survey
from splitcom.models.load import (
    Labels,
    load_config,
    load_model,
    load_tokenizer,
    quiet,
    resolve,
    skeleton,
    stored_dtype,
)
from splitcom.models.split import NARROWS, SOFT_PROMPT, WIDENS
from splitcom.models.whole import whole_modules

_WEIGHTS = "adapter_model.safetensors"
_BESIDE = "beside_peft.safetensors"
BESIDE = frozenset({SOFT_PROMPT, NARROWS, WIDENS})
"""Trained tensors for which peft's format has no place: they are in a file of their own, which only we read."""
_PREFIX = "base_model.model."
_WEIGHT = ".weight"
_MAGNITUDE = ".lora_magnitude_vector.weight"  # as parts have it; in peft's files without the last word


def export_adapter(
    folder: str | Path,
    base: str | Path,
    front: State,
    body: State,
    tail: State | None = None,
    *,
    cut: int,
    rank: int,
    alpha: float,
    dropout: float = 0.0,
    labels: Labels = None,
    rslora: bool = False,
    dora: bool = False,
) -> None:
    """Join the parts' states into one standard PEFT adapter for the whole model, a classifier's with its head.

    Any of them may be empty (a part without LoRA). `PeftModel.from_pretrained(base_model, folder)` then gives
    the split model's logits. Raises AdapterError if the states are not those of parts of `base` cut so.
    """
    model = skeleton(load_config(base, labels), labels=labels)
    anatomy = survey(model)
    state = {**front, **body, **(tail or {})}
    beside = {name: state.pop(name) for name in BESIDE & state.keys()}
    linear = linear_modules(model, anatomy) | head_module(model)
    head = {f"{name}.{own}" for name in anatomy.head for own in model.get_submodule(name).state_dict()}
    lora_state = {name: tensor for name, tensor in state.items() if ".lora_" in name}
    whole = _whole_of(state.keys() - head - lora_state.keys(), model, anatomy)
    if missing := head - state.keys():
        raise AdapterError(f"there is no classification head in any part: {sorted(missing)} are missing")
    adapted = sorted({name.rsplit(".lora_", 1)[0] for name in lora_state})
    _check_fit(lora_state, linear, rank)
    _check_sides(adapted, front, anatomy.blocks, cut)
    lora = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        use_rslora=rslora,
        use_dora=dora,
        target_modules=_targets(adapted, model),
        fan_in_fan_out=any(isinstance(linear[name], Conv1D) for name in adapted),
        task_type="SEQ_CLS" if anatomy.classifies else "CAUSAL_LM",
        modules_to_save=[*anatomy.head, *whole] or None,
        base_model_name_or_path=resolve(base),
        inference_mode=True,
    )
    _write(Path(folder), lora, state, beside)


def _write(folder: Path, lora: LoraConfig, state: State, beside: State) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lora.save_pretrained(str(folder))
    save_file(_as_peft_has_it(state), folder / _WEIGHTS, metadata={"format": "pt"})
    if beside:
        save_file(dict(beside), folder / _BESIDE)
    write_checksums(folder)


def _targets(adapted: list[str], model: PreTrainedModel) -> list[str]:
    """What peft finds these modules by: the last of their names, if it finds no others by it."""
    leaves = {leaf(name) for name in adapted}
    found = sorted(name for name, _ in model.named_modules() if leaf(name) in leaves)
    return sorted(leaves) if adapted == found else adapted


def _whole_of(names: Iterable[str], model: PreTrainedModel, anatomy: Anatomy) -> list[str]:
    """The modules trained whole that have tensors of these names: in full, since peft compares the ends of names."""
    modules = {name.rpartition(".")[0] for name in names}
    if strange := sorted(modules - whole_modules(model, anatomy, sorted(modules)).keys()):
        raise AdapterError(f"{strange[0]} does not fit the base model: no such module outside its blocks")
    return sorted(modules)


def _as_peft_has_it(state: State) -> dict[str, Tensor]:
    return {
        f"{_PREFIX}{name.removesuffix(_WEIGHT) if name.endswith(_MAGNITUDE) else name}": tensor.contiguous()
        for name, tensor in sorted(state.items())
    }


def read_adapter(folder: str | Path) -> dict[str, Tensor]:
    """Read what `export_adapter` has written, by names in the whole model; AdapterError if it is damaged."""
    _check_whole(folder)
    stored = _stored(Path(folder) / _WEIGHTS)
    beside = _stored(path) if (path := Path(folder) / _BESIDE).exists() else {}
    return beside | {
        f"{name.removeprefix(_PREFIX)}{_WEIGHT if f'{name}{_WEIGHT}'.endswith(_MAGNITUDE) else ''}": tensor
        for name, tensor in stored.items()
    }


def _stored(path: Path) -> dict[str, Tensor]:
    try:
        found: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{path}: cannot be read: {error}") from error
    return found


def check_adapter(base: str | Path, folder: str | Path, labels: Labels = None) -> None:
    """Raise AdapterError if the PEFT adapter in `folder` is damaged or does not fit the model.

    Loads no weights of the model.
    """
    _check_whole(folder)
    model = skeleton(load_config(base, labels), labels=labels)
    try:
        with torch.device("meta"), _peft_is_quiet():
            adapted = get_peft_model(model, LoraConfig.from_pretrained(str(folder)))
        own = get_peft_model_state_dict(adapted, save_embedding_layers=False)
        expected = {name: list(tensor.shape) for name, tensor in own.items()}
        with safe_open(Path(folder) / _WEIGHTS, framework="pt") as stored:
            found = {name: stored.get_slice(name).get_shape() for name in stored.keys()}  # noqa: SIM118 (no mapping)
    except Exception as error:  # peft, safetensors and torch raise many unrelated types
        raise AdapterError(f"{folder}: no PEFT adapter that fits {base}: {error}") from error
    names = expected.keys() | found.keys()
    if strange := sorted(name for name in names if expected.get(name) != found.get(name)):
        raise AdapterError(
            f"{folder}: no PEFT adapter that fits {base}: {_WEIGHTS} and the model with the targets of "
            f"adapter_config.json differ in {len(strange)} tensors, such as {strange[:3]}"
        )


def copy_adapter(
    folder: str | Path, base: str | Path, out: str | Path, dtype: torch.dtype = torch.float32
) -> None:
    """Copy an adapter's folder to `out`, and have the copy name `base` as its model, which may have been moved.

    Its tensors are written in `dtype`.
    """
    shutil.copytree(folder, out, dirs_exist_ok=True)
    if dtype != torch.float32:
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(Path(out) / _WEIGHTS).items()}
        save_file(tensors, Path(out) / _WEIGHTS, metadata={"format": "pt"})
    path = Path(out) / "adapter_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = resolve(base)
    write_atomic(path, json.dumps(settings, indent=2, sort_keys=True).encode())
    write_checksums(Path(out))


def load_adapted(
    base: str | Path,
    folder: str | Path,
    labels: Labels = None,
    dtype: torch.dtype = torch.float32,
) -> PeftModel:
    """Load the whole base model with a PEFT adapter on it; AdapterError if the adapter does not fit."""
    check_adapter(base, folder, labels)
    with _peft_is_quiet():
        return PeftModel.from_pretrained(load_model(base, dtype, labels=labels), str(folder))


def merge_adapter(
    adapter_folder: str | Path, base: str | Path, out: str | Path, labels: Labels = None
) -> None:
    """Write the base model with the adapter's updates added to its weights, and its tokenizer, to `out`.

    The weights keep the dtype that the base model is stored in.
    """
    merged = load_adapted(base, adapter_folder, labels, stored_dtype(base)).merge_and_unload()
    with quiet():
        merged.save_pretrained(str(out))
    load_tokenizer(base).save_pretrained(str(out))
    if (beside := Path(adapter_folder) / _BESIDE).exists():
        shutil.copy(beside, Path(out) / _BESIDE)


def _check_whole(folder: str | Path) -> None:
    """Raise AdapterError if a file of an adapter is not what was written; one that others have made may be anything."""
    if (fault := fault_in(Path(folder))) is not None:
        raise AdapterError(
            f"{folder}: damaged adapter ({fault}); write it again with `splitcom train --resume`, or put back a copy; "
            f"if it was changed on purpose, remove its {NAME}"
        )


@contextmanager
def _peft_is_quiet() -> Iterator[None]:
    """Leave out what peft warns of that is no fault, or is found otherwise, such as missing tensors."""
    with warnings.catch_warnings():
        # peft asks transformers for a property by the name that transformers has since deprecated.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        warnings.filterwarnings("ignore", "Found missing adapter keys", UserWarning)
        warnings.filterwarnings(
            "ignore", ".*base_model_name_or_path. was renamed", UserWarning
        )  # it was moved
        yield


def _check_fit(state: State, linear: Mapping[str, nn.Linear | Conv1D], rank: int) -> None:
    if not state:
        raise AdapterError("there is no LoRA in any part: nothing to export")
    for name, tensor in state.items():
        module, _, factor = name.partition(".lora_")
        if module not in linear or factor not in ("A.weight", "B.weight", "magnitude_vector.weight"):
            raise AdapterError(f"{name} does not fit the base model: it has no linear module {module}")
        weight = linear[module].weight
        inputs, outputs = weight.shape if isinstance(linear[module], Conv1D) else weight.shape[::-1]
        expected = {"A.weight": (rank, inputs), "B.weight": (outputs, rank)}.get(factor, (outputs,))
        if tuple(tensor.shape) != expected:
            raise AdapterError(f"{name} has shape {list(tensor.shape)}, expected {list(expected)}")


def _check_sides(adapted: Iterable[str], front: State, blocks: str, cut: int) -> None:
    """Raise AdapterError unless the front has the adapters of all blocks before the cut, and of no others."""
    for name in adapted:
        if not name.startswith(f"{blocks}."):  # the head
            continue
        index = int(name.removeprefix(f"{blocks}.").split(".")[0])
        if (index < cut) != any(key.startswith(f"{name}.") for key in front):
            raise AdapterError(f"{name}: cut = {cut} puts block {index} into the other of front and body")
