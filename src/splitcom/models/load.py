"""Finding a model and loading the part of it that a party holds; knows nothing of training.

No code comes with a model: only what transformers itself has is run.

A part is loaded by transformers' own `from_pretrained` into a class that drops what the part does not hold
right after its construction on the meta device. Renamed or fused checkpoint tensors, tied weights and
non-persistent buffers are therefore transformers' business, and no tensor of another part is ever read.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from threading import RLock
from typing import Any, cast

import torch
from huggingface_hub import constants
from transformers import (
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
)
from transformers.utils import logging

from splitcom.errors import CutError, ModelError
from splitcom.hub import ask_hub
from splitcom.models.anatomy import Anatomy, survey
from splitcom.models.checkpoint import StoredTensor, stored_tensors
from splitcom.models.quantised import Quantization, quantised
from splitcom.models.split import PARTS, Body, Front, Part, Tail, spans, strip

Labels = Sequence[str] | None
"""The classes of a sequence classifier, in the order of its logits; None makes a causal LM of the same weights."""

BUNDLED = Path(__file__).parent / "bundled"
_ALONE = RLock()
"""transformers patches its classes while it makes a model: two threads at once leave them patched for good."""
Architecture = tuple[type[PreTrainedModel], str]
"""Class and configuration, by which two models without weights are the same."""
_ANATOMIES: dict[Architecture, Anatomy] = {}


def resolve(source: str | Path) -> str:
    """Return the folder or hub name that `source` ("bundled", a folder or a hub name) stands for."""
    if source == "bundled":
        source = BUNDLED
    if Path(source).is_dir():
        if not (Path(source) / "config.json").is_file():
            raise ModelError(
                f"{source}: no config.json in this folder; expected a model's folder, as transformers writes it"
            )
        return str(source)
    if Path(source).is_file():
        raise ModelError(f"{source}: a file; expected a model's folder, a name on the hub or 'bundled'")
    if isinstance(source, Path) or source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise ModelError(
            f"{source}: no such folder; expected a model's folder, a name on the hub or 'bundled'"
        )
    ask_hub(source)
    return source


def load_config(source: str | Path, labels: Labels = None) -> PreTrainedConfig:
    """Load a model's configuration, with `labels` that of a classifier; ModelError if there is none."""
    with failing_as_model_error(source, "configuration"):
        config = AutoConfig.from_pretrained(resolve(source), trust_remote_code=False)
        if "/" in (attention := str(config._attn_implementation)):
            raise ModelError(
                f"{source}: its configuration names {attention[:80]!r} as attention, which would be code from the hub; "
                "take that out of config.json"
            )
    if (stored := getattr(config, "quantization_config", None)) is not None:
        kind = stored.get("quant_method") if isinstance(stored, dict) else type(stored).__name__
        raise ModelError(
            f"{source}: its weights are stored quantised ({kind}), which cannot be cut or trained here; give the model "
            "in 16 or 32 bits (model.dtype = 'bfloat16' halves its memory)"
        )
    if labels is not None:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: index for index, label in enumerate(labels)}
        config.problem_type = "single_label_classification"
        text = config.get_text_config()
        if text.pad_token_id is None or text.pad_token_id < 0:
            # transformers' classifiers refuse batches without one; which it is does not matter to a part.
            text.pad_token_id = text.eos_token_id if isinstance(text.eos_token_id, int) else 0
    return config


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer; ModelError if there is none."""
    with failing_as_model_error(source, "tokenizer"):
        return AutoTokenizer.from_pretrained(resolve(source), trust_remote_code=False)


def load_generation_config(source: str | Path) -> GenerationConfig | None:
    """Load what a model's folder says of generation, such as which tokens end a text; None if it says nothing."""
    try:
        return GenerationConfig.from_pretrained(resolve(source))
    except OSError:
        return None


def stored_dtype(source: str | Path) -> torch.dtype:
    """The dtype of a checkpoint's weights, by its configuration or else by the first of its tensors of floats."""
    dtype: Any = load_config(source).dtype
    if dtype is None:
        with failing_as_model_error(source, "weights"):
            found = (tensor.dtype for tensor in stored_tensors(resolve(source)).values())
            dtype = next((one for one in found if one.is_floating_point), torch.float32)
    return cast(torch.dtype, getattr(torch, dtype) if isinstance(dtype, str) else dtype)


def load_model(
    source: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    attn_implementation: str | None = None,
    labels: Labels = None,
) -> PreTrainedModel:
    """Load a whole model in evaluation mode; ModelError if it is missing, damaged or incomplete.

    A causal LM, or a classifier for `labels`, whose head is new whatever the checkpoint has.
    """
    config = load_config(source, labels)
    head = () if labels is None else anatomy_of(config, labels).head
    return _from_pretrained(
        model_class(config, labels),
        resolve(source) if labels is None else None,
        name=source,
        head=head,
        state_dict=None if labels is None else _stored(source, dtype, head),
        config=config,
        dtype=dtype,
        device=device,
        attn_implementation=attn_implementation,
    )


def load_front(
    source: str | Path,
    cut: int = 2,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    attn_implementation: str | None = None,
    labels: Labels = None,
    rows_in_file: bool = False,
) -> Front:
    """Load embeddings and the first `cut` blocks, and nothing else, in evaluation mode.

    With `rows_in_file`, on the CPU the token embeddings stay in the checkpoint's file if they have this dtype there:
    memory is taken for those rows that texts need. The file may be removed or replaced meanwhile, but not changed.
    """
    part = _load_part(
        source, "front", cut, 0, dtype, device, attn_implementation, labels, rows_in_file=rows_in_file
    )
    return cast(Front, part)


def load_body(
    source: str | Path,
    cut: int = 2,
    tail_blocks: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    attn_implementation: str | None = None,
    labels: Labels = None,
    quantization: Quantization | None = None,
) -> Body:
    """Load the blocks between front and tail, with final norm and LM head where `tail_blocks` is 0.

    With `quantization`, which needs bitsandbytes, their linear modules hold their weights in 4 or 8 bits.
    """
    part = _load_part(
        source, "body", cut, tail_blocks, dtype, device, attn_implementation, labels, quantization
    )
    return cast(Body, part)


def load_tail(
    source: str | Path,
    tail_blocks: int = 1,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    attn_implementation: str | None = None,
    labels: Labels = None,
) -> Tail:
    """Load the last `tail_blocks` blocks, final norm and LM head."""
    return cast(Tail, _load_part(source, "tail", 1, tail_blocks, dtype, device, attn_implementation, labels))


def model_class(config: PreTrainedConfig, labels: Labels = None) -> type[PreTrainedModel]:
    """Return transformers' class of causal LM or sequence classifier; CutError if it has none."""
    kind, classes = (
        ("causal language model", MODEL_FOR_CAUSAL_LM_MAPPING)
        if labels is None
        else ("sequence classifier", MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING)
    )
    try:
        found = classes[type(config)]
    except KeyError:
        raise CutError(
            f"looked for a {kind} of type {config.model_type!r} in transformers, found none; choose another model"
        ) from None
    return cast(type[PreTrainedModel], found)


def skeleton(
    config: PreTrainedConfig, dtype: torch.dtype = torch.float32, labels: Labels = None
) -> PreTrainedModel:
    """Build a model without weights, on the meta device."""
    with _ALONE, torch.device("meta"):
        return cast(PreTrainedModel, model_class(config, labels)._from_config(config, dtype=dtype))


def architecture(config: PreTrainedConfig, labels: Labels = None) -> Architecture:
    """The architecture that a configuration describes; CutError if transformers has no such class."""
    return model_class(config, labels), config.to_json_string(use_diff=False)


def anatomy_of(config: PreTrainedConfig, labels: Labels = None) -> Anatomy:
    """Where models of this configuration can be cut, found once in a process; raises as `survey` does."""
    key = architecture(config, labels)
    if key not in _ANATOMIES:
        _ANATOMIES[key] = survey(skeleton(config, labels=labels))
    return _ANATOMIES[key]


def _load_part(
    source: str | Path,
    name: str,
    cut: int,
    tail_blocks: int,
    dtype: torch.dtype,
    device: str | torch.device,
    attn_implementation: str | None,
    labels: Labels,
    quantization: Quantization | None = None,
    rows_in_file: bool = False,
) -> Part:
    config = load_config(source, labels)
    anatomy = anatomy_of(config, labels)
    parts = spans(anatomy.num_blocks, cut, tail_blocks)
    if name not in parts:
        raise CutError(f"tail_blocks = {tail_blocks}: a tail needs at least one block")
    whole, span = model_class(config, labels), parts[name]

    def construct(self: PreTrainedModel, config: PreTrainedConfig, *args: Any, **kwargs: Any) -> None:
        whole.__init__(self, config, *args, **kwargs)
        strip(self, anatomy, span)

    keeps = rows_in_file and torch.device(device).type == "cpu"
    embeddings = f"{anatomy.embeddings}.weight"
    # The name and module stay: transformers derives the loss and its weight conversions from them.
    attributes = {
        "__init__": construct,
        "__module__": whole.__module__,
        "_keys_to_ignore_on_load_unexpected": ["."],
    }
    part = type(whole.__name__, (whole,), attributes)
    model = _from_pretrained(
        part,
        None,
        name=source,
        head=anatomy.head,
        state_dict=_stored(source, dtype, anatomy.head, embeddings if keeps else ""),
        config=config,
        dtype=dtype,
        device=None if quantization else device,
        attn_implementation=attn_implementation,
        **(quantised(quantization, dtype, device) if quantization else {}),
    )
    return PARTS[name](model, anatomy, span).eval()


def _stored(
    source: str | Path, dtype: torch.dtype, head: Sequence[str], kept: str = ""
) -> dict[str, StoredTensor]:
    """The checkpoint's tensors but those of a head; `kept` is the model's name of one that stays in its file."""
    with failing_as_model_error(source, "weights"):
        tensors = stored_tensors(resolve(source), widen=dtype == torch.float32)
    # A checkpoint may leave out how names begin.
    return {
        name: replace(tensor, kept=f".{kept}".endswith(f".{name}"))
        for name, tensor in tensors.items()
        if not belongs(name, head)
    }


def belongs(name: str, modules: Sequence[str]) -> bool:
    """Whether a tensor is one of these modules'."""
    return any(name.startswith(f"{module}.") for module in modules)


def _from_pretrained(
    model_class: type[PreTrainedModel],
    source: str | Path | None,
    *,
    name: str | Path,
    head: Sequence[str],
    device: str | torch.device | None,
    attn_implementation: str | None,
    **options: Any,
) -> PreTrainedModel:
    if attn_implementation:
        options["attn_implementation"] = attn_implementation
    with _ALONE, failing_as_model_error(name, "weights"), quiet():
        model, info = model_class.from_pretrained(
            source, output_loading_info=True, trust_remote_code=False, **options
        )
    if missing := sorted(key for key in info["missing_keys"] if not belongs(key, head)):
        raise ModelError(
            f"{name}: the checkpoint lacks {len(missing)} tensors that the model needs, such as "
            f"{missing[:3]}; its files are incomplete or belong to another model"
        )
    return cast(PreTrainedModel, model if device is None else model.to(device))


@contextlib.contextmanager
def failing_as_model_error(source: str | Path, what: str) -> Iterator[None]:
    """Turn whatever goes wrong inside into a ModelError that names the source and the remedy."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # transformers, safetensors and the hub raise many unrelated types
        raise ModelError(
            f"{source}: cannot load the {what}: {_reason(source, error)}; expected a model's folder, a name on the hub "
            "or 'bundled'"
        ) from error


def _reason(source: str | Path, error: Exception) -> str:
    """What a library's error says; of a hub that cannot be reached its advice would be another's."""
    if constants.HF_HUB_OFFLINE and not Path(source).exists() and source != "bundled":
        return f"it is no folder here, and not stored on this machine, and {constants.ENDPOINT} cannot be reached"
    return str(error).strip().rstrip(".")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from showing progress bars, and reports of tensors that are checked here, for the moment."""
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
