"""What speaks against a model, its cut and its LoRA, before weights are read; loads no part."""

import logging

from transformers import PreTrainedModel

from splitcom.config import Config
from splitcom.engines import check_processes
from splitcom.errors import ConfigError, CutError
from splitcom.models import Body, Front, Tail, adapter_state, check_targets, load_config, recompute
from splitcom.models.front import outline
from splitcom.models.load import anatomy_of, skeleton
from splitcom.models.quantised import check_quantization
from splitcom.models.split import spans
from splitcom.models.whole import check_whole
from splitcom.parties.parts import adapt, device_of, most_blocks
from splitcom.training.optimize import check_optimizer

_LOG = logging.getLogger(__name__)


def check_parts(config: Config) -> list[str]:
    """Raise what cutting the model and adding LoRA would; reads no weights.

    Returns what there is to be warned of, which is logged, too: ranks that are of no use, a loss that is not trained.

    For before texts are encoded: the model's own configuration tells how many blocks there are, what they are called
    and which attention its family has.
    """
    check_processes(config)
    model, classes, rank = config.model, config.data.classes, config.lora.rank
    whole = skeleton(load_config(model.source, classes), labels=classes)
    if model.attention == "sdpa" and not whole._supports_sdpa:
        raise ConfigError(
            f"model.attention = 'sdpa': models of type {whole.config.model_type!r} have none in transformers; set "
            "model.attention = 'auto' or 'eager'"
        )
    check_optimizer(config.training.optimizer)
    warnings = _check_precision(config)
    if getattr(whole.config.get_text_config(), "output_router_logits", False):
        warnings.append(
            f"{model.source}: output_router_logits is set, but the auxiliary loss of its router is not trained: losses "
            "are those of the tokens alone"
        )
    _check_cuts(config, anatomy_of(whole.config, classes).num_blocks)
    check_targets(whole, config.lora.targets)
    warnings += _check_whole(config, whole)
    kinds = (Front, Body, Tail) if model.tail_blocks else (Front, Body)
    small = {"rank": 1, "modules_to_save": None}  # or else adapters and copies would take memory
    slim = config.model_copy(update={"lora": config.lora.model_copy(update=small)})
    widths = []
    for part in (outline(model.source, kind, model.cut, model.tail_blocks, classes) for kind in kinds):
        adapt(part, slim)
        if config.client.checkpointing or config.engine.checkpointing:
            recompute(part)
        lora = {name: tensor for name, tensor in adapter_state(part).items() if ".lora_" in name}
        widths += [tensor.shape[".lora_A." in name] for name, tensor in lora.items()]
    if widths and rank > max(widths):
        raise ConfigError(
            f"lora.rank = {rank} is more than the width of any module, which is {max(widths)} at most; lower it"
        )
    if widths and rank > min(widths):
        warnings.append(
            f"lora.rank = {rank} is more than the width of some modules, which is {min(widths)}: ranks above it add "
            "nothing but size"
        )
    for warning in warnings:
        _LOG.warning("%s", warning)
    return warnings


def _check_cuts(config: Config, num_blocks: int) -> None:
    """Raise ConfigError if a client's own cut, or one it may come to have, does not fit the model."""
    try:
        spans(num_blocks, most_blocks(config), config.model.tail_blocks)
    except CutError as error:
        if config.federation.cuts.every is None:
            raise
        raise ConfigError(f"federation.cuts.most: {error}") from error
    for name in config.known_clients if config.clients.given else ():
        cut = config.clients.of(name).cut
        if cut is not None:
            try:
                spans(num_blocks, cut, config.model.tail_blocks)
            except CutError as error:
                raise ConfigError(f"clients: {name}: {error}") from error


def _check_precision(config: Config) -> list[str]:
    """Raise what weights of few bits would, or say what they may do to training."""
    model = config.model
    if model.quantization is not None:
        if config.engine.kind != "local":
            raise ConfigError(
                f"model.quantization = {model.quantization!r}: quantised weights stay on the device that they "
                "are loaded on; set engine.kind = 'local', or model.dtype = 'bfloat16' without "
                "model.quantization"
            )
        check_quantization(model.quantization)
    if model.dtype != "float16":
        return []
    reason = (
        "model.dtype = 'float16': losses are not scaled, so that small gradients become 0 and large ones overflow, "
        "and what is learnt may be wrong; set model.dtype = 'bfloat16', which is as small, or 'float32'"
    )
    if device_of(config).type == "cuda":
        raise ConfigError(reason)
    return [reason]


def _check_whole(config: Config, model: PreTrainedModel) -> list[str]:
    """Raise what training modules whole would, and say what it costs."""
    names = config.lora.modules_to_save
    if names is None:
        return []
    if config.lora.train_head:
        raise ConfigError(
            "lora.modules_to_save and lora.train_head both train what is not in blocks; set one"
        )
    millions = check_whole(model, anatomy_of(model.config, config.data.classes), names) / 1e6
    return [
        f"lora.modules_to_save = {names}: {millions:,.1f} million numbers are trained whole beside the adapters, and "
        "those of clients' parts travel both ways in every round"
    ]
