"""What splitting costs: tokens per second of the whole split loop in process against plain peft on the uncut model.

One client; the same batches, precision, optimizer, rates and clipping. The loops take turns, round by round, and the
median of the ratios of neighbouring rounds is what counts. Seconds are those of the processor, with one thread, since
a shared machine is noisy:

    python benchmarks/overhead.py [--rounds 7] [--model FOLDER] [--out overhead.json]

The split loops, in the standard form and the U-shape, are the product's: messages as bytes, both sessions, all codecs
and reference stores, the ledger and the virtual clock. What a run does between rounds (evaluation, checkpoints) is in
no loop.

If `trl` is installed, its trainer is a loop of its own: see `trl_loop`, which says what is not equal.

Then what the time of a round goes into, by part of the step, for each codec in the standard form. What gate and
controller cost is counted apart, as their share of the CPU time of all rounds but the first; not with `--model`.
"""

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Semaphore, Thread
from time import process_time
from typing import Any
from unittest.mock import patch

import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, TrainerCallback

from splitcom.client.passes import FrontPasses
from splitcom.codecs.chain.temporal import Temporal
from splitcom.config import Config
from splitcom.data import Batch
from splitcom.engines import local
from splitcom.models import load_model, load_tokenizer
from splitcom.parties.parts import load_parts
from splitcom.parties.texts import load_texts
from splitcom.protocol.session import Session
from splitcom.server.controllers import Controllers
from splitcom.server.phases import Phases
from splitcom.simulation.simulation import Simulation
from splitcom.training.adapters import AdapterCodec
from splitcom.training.channel import Channel
from splitcom.training.optimize import Optimizer, learning_rate
from splitcom.training.plan import progress_of, round_batches

CODECS = {
    "none": ("none", "none"),
    "temporal + delta + int4 + zstd": ("temporal(0.98) > delta > int4 > zstd", "int8 > zstd"),
}
FORMS = {"split": 0, "U-shape": 1}  # tail blocks
LOOPS = {f"{form}, {codec}": (form, codec) for form in FORMS for codec in CODECS}

TRL = "TRL's trainer"
DEFAULT = "the default"
PARTS = (
    "front, forward",
    "codec at the client",
    "wire",
    "codec at the server",
    "body, forward and loss",
    "body, backward",
    "front, backward",
    "optimizers",
    "codec of adapters",
)
CONTROLLERS = ("fixed(0.98)", "linear(0.95, 0.99)", "bangbang(0.95, 0.99)", "ddpg(0.95, 0.99)")


def gpt2_small(folder: Path, blocks: int) -> str:
    """GPT-2 small's shape with random weights, the bundled tokenizer, and fewer blocks to keep a round short."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer("bundled")
    config = GPT2Config(
        n_layer=blocks,
        vocab_size=len(tokenizer),
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def uncut_model(config: Config) -> PreTrainedModel:
    """The uncut model with peft's LoRA on the modules that have it in the split model."""
    lora = LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        target_modules=config.lora.targets,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(load_model(config.model.source), lora).train()


def plain_loop(config: Config, plans: list[list[Batch]]) -> Iterator[None]:
    """Plain peft: forward, backward, clip, step."""
    model = uncut_model(config)
    optimizer = Optimizer((p for p in model.parameters() if p.requires_grad), config.training)
    for index, plan in enumerate(plans):
        for step, batch in enumerate(plan):
            out = model(
                batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels, use_cache=False
            )
            out.loss.backward()
            optimizer.step(progress_of(config, index + 1, step, len(plan)))
        yield


def trl_loop(config: Config, plans: list[list[Batch]], folder: Path) -> Iterator[None]:
    """TRL's trainer, which runs in a thread of its own and waits there after each round, as it trains without a pause.

    Equal: model, LoRA, batches, fp32, AdamW, rate of each step, clipping. Not equal: TRL computes the logits of
    labelled tokens only, as the split loop does and plain peft does not, and entropy and accuracy of each step beside.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    training, all_batches = config.training, [batch for plan in plans for batch in plan]
    rates = [
        learning_rate(training, progress_of(config, index + 1, step, len(plan)))
        for index, plan in enumerate(plans)
        for step in range(len(plan))
    ]
    model = uncut_model(config)
    adapter = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(adapter, lr=1.0, weight_decay=training.weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rates[min(step, len(rates) - 1)])
    goes_on, is_done = Semaphore(0), Semaphore(0)

    class Pause(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % len(plans[0]) == 0:
                is_done.release()
                if state.global_step < len(all_batches):
                    goes_on.acquire()

    def batch_of(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = all_batches[rows[0]["place"]]
        return {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "labels": batch.labels,
        }

    trainer = SFTTrainer(
        model,
        SFTConfig(
            output_dir=str(folder),
            per_device_train_batch_size=1,  # a row is the place of a whole batch
            num_train_epochs=1,
            train_sampling_strategy="sequential",
            max_grad_norm=training.clip_norm or 0.0,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        data_collator=batch_of,
        train_dataset=Dataset.from_dict({"place": range(len(all_batches))}),
        processing_class=load_tokenizer(config.model.source),
        optimizers=(optimizer, scheduler),
        callbacks=[Pause()],
    )
    failures: list[Exception] = []

    def work() -> None:
        try:
            trainer.train()
        except Exception as error:
            failures.append(error)
            is_done.release()

    Thread(target=work, daemon=True).start()
    for _ in plans:
        is_done.acquire()
        if failures:
            raise failures[0]
        yield
        goes_on.release()


def split_loop(config: Config, folder: Path) -> Iterator[None]:
    """The product's own loop with one client."""
    simulation = Simulation(config, load_texts(config), load_parts(config), folder)
    rounds = simulation.federation.run()
    next(rounds)  # before training
    for _ in rounds:
        yield


def timed(step: Callable[[], None]) -> float:
    """Seconds of processor time that a call takes."""
    started = process_time()
    step()
    return process_time() - started


def measure(config: Config, folder: Path, num_rounds: int) -> tuple[float, dict[str, float]]:
    """Tokens per second of plain peft, and the median over rounds of its seconds over those of each other loop."""
    texts = load_texts(config)
    rounds = range(1, num_rounds + 1)
    plans = [[*round_batches(texts.partition.parts[0], config, "client-0", index)] for index in rounds]
    tokens = sum(int(batch.lengths.sum()) for batch in plans[0])
    loops = {"plain": plain_loop(config, plans)}
    if find_spec("trl") is not None:
        loops[TRL] = trl_loop(config, plans, folder / "trl")
    for name, (form, codec) in LOOPS.items():
        activation, gradient = CODECS[codec]
        changes = {
            "model.tail_blocks": FORMS[form],
            "flows.activation_up.codec": activation,
            "flows.activation_down.codec": activation,
            "flows.gradient_up.codec": gradient,
            "flows.gradient_down.codec": gradient,
        }
        loops[name] = split_loop(config.override(changes), folder / name)
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for index in rounds:
        order = list(loops) if index % 2 else list(reversed(loops))
        for name in order:
            seconds[name].append(timed(lambda name=name: next(loops[name])))
    plain = seconds.pop("plain")[1:]  # the first round warms up
    return tokens / statistics.median(plain), {
        name: statistics.median(one / other for one, other in zip(plain, taken[1:], strict=True))
        for name, taken in seconds.items()
    }


def measure_parts(config: Config, folder: Path, num_rounds: int) -> dict[str, dict[str, float]]:
    """Share of all rounds' seconds but the first's that each part of a step takes, by codec, in the standard form."""
    shares = {}
    for name, codecs in {**CODECS, DEFAULT: None}.items():
        changes = {}
        if codecs is not None:
            changes = {"flows.activation_up.codec": codecs[0], "flows.gradient_down.codec": codecs[1]}
        phases = Phases(process_time, PARTS)
        with ExitStack() as clocks:
            for owner, method, part in STOPWATCHES:
                clocks.enter_context(counted_as(part, owner, method, phases))
            rounds = split_loop(config.override(changes), folder / f"parts of {name}")
            next(rounds)  # warms up
            phases.take()
            seconds = sum(timed(lambda rounds=rounds: next(rounds)) for _ in range(1, num_rounds))
        shares[name] = {part: spent / seconds for part, spent in phases.take().items()}
        shares[name]["the rest"] = 1 - sum(shares[name].values())
    return shares


def measure_control(config: Config, folder: Path) -> dict[str, float]:
    """CPU seconds of gate and controller over those of whole rounds, for each controller."""
    result = {}
    for index, text in enumerate(CONTROLLERS):
        changes = {
            "flows.activation_up.codec": CODECS["temporal + delta + int4 + zstd"][0],
            "flows.activation_up.controller": text,
            "evaluation.every": 1,  # of one held-out sample, so that there is something to control by
        }
        phases = Phases(process_time, ("control",))
        with (
            counted_as("control", Temporal, "similar", phases),
            counted_as("control", Controllers, "observe", phases),
        ):
            rounds = split_loop(config.override(changes), folder / f"control-{index}")
            next(rounds)  # warms up
            phases.take()
            started = process_time()
            for _ in rounds:
                pass
            result[text] = phases.take()["control"] / (process_time() - started)
    return result


@contextmanager
def counted_as(part: str | Callable[[Any], str], owner: Any, name: str, phases: Phases) -> Iterator[None]:
    """Count the seconds of a method, less those of others within it, as a part, which may depend on the object."""
    method = getattr(owner, name)

    def counted(one: Any, *arguments: Any, **options: Any) -> Any:
        with phases(part if isinstance(part, str) else part(one)):
            return method(one, *arguments, **options)

    with patch.object(owner, name, counted):
        yield


def sender(channel: Channel) -> str:
    return f"codec at the {'client' if '_up' in channel.flow else 'server'}"


def receiver(channel: Channel) -> str:
    return f"codec at the {'server' if '_up' in channel.flow else 'client'}"


STOPWATCHES: tuple[tuple[Any, str, str | Callable[[Any], str]], ...] = (
    (FrontPasses, "forward", "front, forward"),
    (FrontPasses, "backward", "front, backward"),
    (Channel, "encode", sender),
    (Channel, "decode", receiver),
    (Session, "send", "wire"),
    (Session, "receive", "wire"),
    (local, "losses_through", "body, forward and loss"),
    (local.LocalEngine, "step", "body, backward"),  # which is what the two within it leave
    (Optimizer, "step", "optimizers"),
    (AdapterCodec, "encode", "codec of adapters"),
    (AdapterCodec, "decode", "codec of adapters"),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--model", help="this one, a folder or a name on the hub, in place of the two here")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = {
            "bundled": ("bundled", 64, 8),
            "GPT-2 small's shape, 4 blocks": (gpt2_small(folder / "gpt2", blocks=4), 8, 8),
        }
        if arguments.model:
            models = {arguments.model: models.get(arguments.model, (arguments.model, 8, 8))}
        results = {}
        last = arguments.rounds + 1  # it evaluates and saves, and is not timed
        for number, (label, (source, samples, batch_size)) in enumerate(models.items()):
            config = Config().override(
                {
                    "model.source": source,
                    "model.device": "cpu",
                    "lora.train_front": True,  # as plain peft trains it
                    "federation.clients": 1,
                    "data.samples": samples,
                    "data.held_out_samples": 1,
                    "training.rounds": last,
                    "training.batch_size": batch_size,
                    "training.checkpoint_every": last,
                    "evaluation.every": last,
                }
            )
            runs = folder / f"runs-{number}"
            speed, loops = measure(config, runs, arguments.rounds)
            results[label] = {
                "plain tokens/s": speed,
                "loops": loops,
                "parts": measure_parts(config, runs, arguments.rounds),
                "control": {} if arguments.model else measure_control(config, runs),
            }
    for label, figures in results.items():
        show(label, figures)
    if arguments.out:
        arguments.out.write_text(json.dumps({"cores": os.cpu_count(), "results": results}, indent=1) + "\n")


def show(label: str, figures: dict[str, Any]) -> None:
    print(f"{label}: plain peft {figures['plain tokens/s']:,.0f} tokens/s")
    for name, ratio in figures["loops"].items():
        print(f"  {name:42} {ratio:.3f} x plain")
    print(f"  {'of a round, split':42} {' | '.join(figures['parts'])}")
    for part in (*PARTS, "the rest"):
        print(f"  {part:42} {' | '.join(f'{shares[part]:.1%}' for shares in figures['parts'].values())}")
    for controller, share in figures["control"].items():
        print(f"  gate and {controller:33} {share:.2%} of a step")


if __name__ == "__main__":
    main()
