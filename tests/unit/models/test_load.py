"""Loading by part: which files are read, what is refused, and how two parties compare their base models."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, BrokenBarrierError

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from splitcom.errors import CutError, ModelError
from splitcom.models import (
    add_lora,
    describe,
    fingerprint,
    load_body,
    load_config,
    load_front,
    load_model,
    load_tail,
    load_tokenizer,
)
from splitcom.models.checkpoint import Files, StoredTensor


@pytest.fixture
def sharded(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model with about one tensor per file."""
    folder = tmp_path / "sharded"
    load_model(tiny_model).save_pretrained(folder, max_shard_size="2KB")
    return folder


def shards(folder: Path) -> dict[str, str]:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    return dict(index["weight_map"])


@pytest.mark.parametrize("name", ["front", "body", "tail"])
def test_a_part_reads_its_own_tensors_only(sharded: Path, name: str) -> None:
    load = {
        "front": lambda: load_front(sharded, 1),
        "body": lambda: load_body(sharded, 1, 1),
        "tail": lambda: load_tail(sharded, 1),
    }[name]
    whole = load()
    needed = {parameter for parameter, _ in whole.model.named_parameters()}
    others = {file for tensor, file in shards(sharded).items() if tensor not in needed}
    for file in others - {shards(sharded)[tensor] for tensor in needed}:
        (sharded / file).unlink()
    again = dict(load().model.named_parameters())
    assert again.keys() == needed
    assert all(torch.equal(parameter, again[n]) for n, parameter in whole.model.named_parameters())
    with pytest.raises(ModelError, match="cannot load the weights"):
        load_model(sharded)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16])
def test_weights_come_in_the_dtype_asked_for(
    tiny_model: Path, tmp_path: Path, stored: torch.dtype, wanted: torch.dtype
) -> None:
    model = load_model(tiny_model, dtype=stored)
    model.save_pretrained(tmp_path)
    expected = {name: parameter.to(wanted) for name, parameter in model.named_parameters()}
    front = load_front(tmp_path, 2, dtype=wanted)
    for name, parameter in front.model.named_parameters():
        assert parameter.dtype == wanted
        assert torch.equal(parameter, expected[name])


def test_large_tensors_are_widened_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("splitcom.models.checkpoint._CHUNK", 20)
    tensor = torch.randn(7, 9).half()
    save_file({"weight": tensor, "scale": torch.tensor(2.0).half()}, tmp_path / "model.safetensors")
    files = Files(str(tmp_path))
    assert torch.equal(StoredTensor(files, "model.safetensors", "weight", widen=True)[...], tensor.float())
    assert StoredTensor(files, "model.safetensors", "scale", widen=True)[...] == 2
    assert StoredTensor(files, "model.safetensors", "weight")[2:4].dtype == torch.float16


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what is mapped is told in /proc")
def test_rows_in_file_are_mapped_and_stay_what_they_are(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    file = folder / "model.safetensors"
    before = file.read_bytes()
    front, plain = load_front(folder, 2, rows_in_file=True), load_front(folder, 2)
    rows = front.model.get_input_embeddings().weight
    mappings = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(file))]
    assert len(mappings) == 1
    shutil.rmtree(folder)  # a cache may be tidied while a client is at work
    ids, mask = torch.arange(12).view(2, 6), torch.ones(2, 6, dtype=torch.long)
    assert torch.equal(front(ids, mask), plain(ids, mask))
    with torch.no_grad():
        rows[3] += 1.0
    shutil.copytree(tiny_model, folder)
    assert file.read_bytes() == before  # what is trained is this process' own
    narrow = load_front(folder, 2, dtype=torch.bfloat16, rows_in_file=True)
    expected = load_front(folder, 2, dtype=torch.bfloat16).model.get_input_embeddings().weight
    assert torch.equal(narrow.model.get_input_embeddings().weight, expected)


def test_loaded_parts_are_frozen_and_in_evaluation_mode(tiny_model: Path) -> None:
    for part in (load_front(tiny_model, 2), load_body(tiny_model, 2, 1), load_tail(tiny_model, 1)):
        assert not part.training
        assert not any(parameter.requires_grad for parameter in part.parameters())
        assert not any(parameter.is_meta for parameter in (*part.parameters(), *part.buffers()))


@pytest.mark.parametrize("load", [load_model, load_front, load_body, load_tail, fingerprint, describe])
def test_a_model_that_is_not_there_is_named(tmp_path: Path, load: object) -> None:
    with pytest.raises(ModelError, match=r"nowhere: no such folder; expected a model"):
        load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"no config.json in this folder"):
        load(tmp_path)


def test_damaged_and_incomplete_checkpoints_are_named(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    del tensors["model.layers.0.mlp.up_proj.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 tensors .*layers.0.mlp.up_proj.weight"):
        load_front(folder, 2)
    load_body(folder, 2)  # does not need it
    with pytest.raises(ModelError, match="lacks 1 tensors"):
        load_model(folder)
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot load the weights"):
        load_front(folder, 2)
    weights.unlink()
    with pytest.raises(ModelError, match=r"no file model.safetensors; a safetensors checkpoint is expected"):
        load_front(folder, 2)
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot load the configuration"):
        load_config(folder)
    (folder / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(CutError, match="causal language model of type 't5'"):
        load_front(folder, 2)


def test_a_folder_without_a_tokenizer_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ModelError, match="cannot load the tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(("at", "tail_blocks"), [(0, 0), (4, 0), (3, 1)])
def test_a_cut_outside_the_model_is_refused(tiny_model: Path, at: int, tail_blocks: int) -> None:
    with pytest.raises(CutError, match="does not fit a model of 4 blocks"):
        load_body(tiny_model, at, tail_blocks)
    with pytest.raises(CutError, match="does not fit a model of 4 blocks"):
        describe(tiny_model, at, tail_blocks)


def test_a_tail_has_blocks(tiny_model: Path) -> None:
    with pytest.raises(CutError, match="at least one block"):
        load_tail(tiny_model, 0)


def test_the_description_is_what_loading_gives(tiny_model: Path) -> None:
    found = describe(tiny_model, 1, 1, rank=4, dtype=torch.float32)
    parts = (load_front(tiny_model, 1), load_body(tiny_model, 1, 1), load_tail(tiny_model, 1))
    assert [size.name for size in found.parts] == ["front", "body", "tail"]
    for size, part in zip(found.parts, parts, strict=True):
        assert size.parameters == sum(p.numel() for p in part.parameters())
        assert size.weight_bytes == 4 * size.parameters
        add_lora(part, rank=4)
        assert size.lora_parameters == sum(p.numel() for p in part.parameters() if p.requires_grad)
    whole = load_model(tiny_model)
    assert found.parameters == whole.num_parameters() == sum(size.parameters for size in found.parts)
    assert (found.num_blocks, found.hidden_size, found.model_type) == (4, 32, "llama")


def test_the_fingerprint_is_that_of_the_model_not_of_its_files(
    tiny_model: Path, sharded: Path, tmp_path: Path
) -> None:
    assert fingerprint(tiny_model) == fingerprint(sharded)
    for name, change in {
        "weights": lambda tensor: tensor + 1e-6,
        "dtype": lambda tensor: tensor.double(),
    }.items():
        other = tmp_path / name
        shutil.copytree(tiny_model, other)
        tensors = load_file(other / "model.safetensors")
        tensors["model.norm.weight"] = change(tensors["model.norm.weight"])
        save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
        assert fingerprint(other) != fingerprint(tiny_model), name
    other = tmp_path / "config"
    shutil.copytree(tiny_model, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    assert fingerprint(other) != fingerprint(tiny_model)


def test_threads_make_models_one_after_the_other(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    barrier, plain = Barrier(2), PreTrainedModel.from_pretrained.__func__

    def from_pretrained(cls: type, *arguments: object, **options: object) -> object:
        with pytest.raises(BrokenBarrierError):  # nobody else comes
            barrier.wait(0.05)
        return plain(cls, *arguments, **options)

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(from_pretrained))
    with ThreadPoolExecutor(2) as threads:
        fronts = list(threads.map(load_front, [tiny_model] * 2))
    assert len(fronts) == 2
