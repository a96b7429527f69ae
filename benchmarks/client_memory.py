"""Peak memory of a client's front, a server's body and the end of a run, above an interpreter with the imports.

    python benchmarks/client_memory.py --out client_memory.json
    python benchmarks/client_memory.py --client              a client's whole need, predicted and measured
    python benchmarks/client_memory.py --client 8b           one of them

Writes a randomly initialised Llama-shaped checkpoint of 300 M parameters in shards into a temporary folder, then
measures each case in a process of its own: the peak resident memory (VmHWM, Linux) after loading the front and
reading every weight once, and after a LoRA training step of 64 tokens on top. Target: loading peaks at most at
1.3 times the front's own weights above the import.

Then, in bfloat16, the server's body of the same checkpoint, and the end of a run: all parts are loaded with an adapter,
as `generate`, `evaluate` and the end of `train` have them, and write eight tokens before and after training. Target: at
most 1.15 times the weights, as they are stored.

With `--client`: fronts of two blocks of Llama's 1 B and 8 B shapes in bf16, with random weights and LoRA everywhere,
train a step of 4 x 512 tokens as a client of a run does, each in a process of its own. `splitcom inspect --client` says
before what they need. Targets: within 15 %, and the 8 B front in at most 3.5 GB.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TARGET = 1.3
MIB = 2**20

WRITE = """
import torch, sys
from transformers import LlamaConfig, LlamaForCausalLM
torch.manual_seed(0)
config = LlamaConfig(vocab_size=32000, hidden_size=1024, intermediate_size=2816, num_hidden_layers=18,
                     num_attention_heads=16, num_key_value_heads=16, dtype=sys.argv[2])
model = LlamaForCausalLM(config).to(getattr(torch, sys.argv[2]))
model.save_pretrained(sys.argv[1], max_shard_size="200MB")
print(sum(p.numel() for p in model.parameters()))
"""

PEAK = """
import re, pathlib
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) * 1024
"""

IMPORT = "from splitcom.models import add_lora, load_body, load_front" + PEAK + "print(peak())"

LOAD = (
    "import sys, torch\nfrom splitcom.models import add_lora, load_front"
    + PEAK
    + """
front = load_front(sys.argv[1], cut=2)
weights = sum(p.numel() * p.element_size() for p in front.parameters())
for p in front.parameters():
    p.sum()  # weights that were only mapped from the file take memory when they are read
loaded = peak()
add_lora(front.train(), rank=8)
front(torch.zeros(1, 64, dtype=torch.long)).sum().backward()
print(weights, loaded, peak())
"""
)

BODY = (
    "import sys, torch\nfrom splitcom.models import load_body"
    + PEAK
    + """
body = load_body(sys.argv[1], cut=2, dtype=torch.bfloat16)
for p in body.parameters():
    p.sum()
print(sum(p.numel() * p.element_size() for p in body.parameters()), peak())
"""
)

END = (
    "import sys, torch\nfrom transformers import AutoTokenizer\nfrom splitcom.config import Config"
    "\nfrom splitcom.methods.text import Writer\nfrom splitcom.models.load import BUNDLED"
    "\nfrom splitcom.parties.parts import load_parts"
    + PEAK
    + """
AutoTokenizer.from_pretrained(BUNDLED).save_pretrained(sys.argv[1])
imported = peak()
config = Config().override({"model.source": sys.argv[1], "model.dtype": "bfloat16", "evaluation.max_new_tokens": 8})
parts = load_parts(config)
frozen = {p.data_ptr(): p for part in parts.all for p in part.parameters()}
writer = Writer(parts, config)
with writer.untrained():
    writer.write(["name: Alba =>"])
writer.write(["name: Alba =>"])
print(sum(p.numel() * p.element_size() for p in frozen.values()), imported, peak())
"""
)

END_TARGET = 1.15

SHAPES = {
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "tie_word_embeddings": True,
    },
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "tie_word_embeddings": False,
    },
}
CLIENT = {
    "model.dtype": "bfloat16",
    "model.device": "cpu",
    "training.batch_size": 4,
    "lora.targets": "all-linear",
    "flows.gradient_down.codec": "fp16",
}
CASES = {
    "1b": {
        "1b": {},
        "1b, accumulate 4": {"training.accumulate": 4},
        "1b, checkpointing": {"client.checkpointing": True},
    },
    "8b": {"8b": {}, "8b, accumulate 4": {"training.accumulate": 4}},
}
CLIENT_TARGET = 0.15
CLIENT_BYTES = {"8b": 3.5e9}

WRITE_FRONT = """
import json, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from transformers import LlamaConfig
from splitcom.models.memory import shapes_of
folder, shape = Path(sys.argv[1]), json.loads(sys.argv[2])
LlamaConfig(vocab_size=128256, num_attention_heads=32, num_key_value_heads=8, dtype="bfloat16",
            architectures=["LlamaForCausalLM"], **shape).save_pretrained(folder)
noise = (torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16()
state = {}
for name, tensor in shapes_of(folder, "front", 2, 0, torch.bfloat16).model.state_dict().items():
    size = tensor.numel()
    state[name] = noise.repeat(-(-size // len(noise)))[:size].reshape(tensor.shape).clone()
save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
"""

TRAIN_FRONT = (
    """
import json, sys, torch
from pathlib import Path
from splitcom.allocator import return_freed_memory
from splitcom.client.front import FrontTrainer
from splitcom.codecs import Context, Ragged, parse
from splitcom.config import Config
from splitcom.data import Sample
from splitcom.parties.build import open_channels
from splitcom.parties.parts import client_front
from splitcom.protocol.messages_pb2 import Gradient, Message
from splitcom.training.plan import LocalRound, round_batches
"""
    + PEAK
    + """
return_freed_memory()  # as `splitcom join` does
folder, config = Path(sys.argv[1]), Config().override(json.loads(sys.argv[2]))
ids = torch.arange(512) % 1000
samples = [Sample(index, ids, ids.clone(), None) for index in range(4)]
order = round_batches(samples, config, "c", 1)[0].sample_ids
gradient = Ragged(torch.randn(2048, int(sys.argv[3])) * 1e-4, torch.full((4,), 512))
packet = parse("fp16").encode(gradient, order, Context(seed=0)).packet  # gone before there is anything else
del gradient
front = client_front(config)
trainer = FrontTrainer("c", front, samples, [], open_channels(config, "c", folder), config)
shared = trainer.adapter()
steps = trainer.train(LocalRound(1, 1.0))
next(steps)
try:
    steps.send(Message(gradient=Gradient(gradient=packet)))
except StopIteration:
    pass
trained = trainer.adapter()
print(peak())
"""
)

PREDICT = (
    "import json, sys\nfrom splitcom.config import Config\nfrom splitcom.methods.need import need_of_client"
    "\nneed = need_of_client(Config().override(json.loads(sys.argv[1])), 4, 512)"
    "\nprint(need.total, *vars(need).values())"
)


def measure_client(name: str) -> list[dict[str, object]]:
    """Predict and measure what clients of one shape need."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        run(WRITE_FRONT, folder, json.dumps(SHAPES[name]))
        for case, changes in CASES[name].items():
            settings = json.dumps({"model.source": folder, **CLIENT, **changes})
            predicted, *parts = run(PREDICT, settings)
            (measured,) = run(TRAIN_FRONT, folder, settings, str(SHAPES[name]["hidden_size"]))
            most = CLIENT_BYTES.get(case)
            error = predicted / measured - 1
            met = abs(error) <= CLIENT_TARGET and (most is None or measured <= most)
            print(
                f"{case:20s}  predicted {predicted / 1e6:6.0f} MB  measured {measured / 1e6:6.0f} MB  {error:+.1%}"
                f"{'' if most is None else f', at most {most / 1e6:.0f} MB'}{'' if met else '  MISSED'}"
                f"  ({', '.join(f'{part / 1e6:.0f}' for part in parts)})",
                flush=True,
            )
            rows.append({"case": case, "predicted_bytes": predicted, "peak_bytes": measured, "met": met})
    return rows


def run(code: str, *arguments: str) -> list[int]:
    """Run `code` in a fresh interpreter and return the integers that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    return [int(word) for word in done.stdout.split()]


def measure(dtype: str) -> dict[str, object]:
    """Write a checkpoint in `dtype` and load a two-block fp32 front from it."""
    with tempfile.TemporaryDirectory() as folder:
        (parameters,) = run(WRITE, folder, dtype)
        (imported,) = run(IMPORT)
        weights, loaded, stepped = run(LOAD, folder)
        shards = len(list(Path(folder).glob("*.safetensors")))
    return {
        "checkpoint_dtype": dtype,
        "checkpoint_parameters": parameters,
        "checkpoint_shards": shards,
        "front_weight_bytes": weights,
        "import_peak_bytes": imported,
        "load_peak_bytes": loaded,
        "step_peak_bytes": stepped,
        "load_ratio": (loaded - imported) / weights,
        "step_ratio": (stepped - imported) / weights,
        "target_ratio": TARGET,
    }


def measure_others() -> list[dict[str, object]]:
    """Write a checkpoint in bfloat16; load a body from it, and be the end of a run on it."""
    with tempfile.TemporaryDirectory() as folder:
        run(WRITE, folder, "bfloat16")
        (imported,) = run(IMPORT)
        body = (*run(BODY, folder), imported)
        weights, before, end = run(END, folder)
    return [
        {
            "case": case,
            "weight_bytes": size,
            "import_peak_bytes": start,
            "peak_bytes": peak,
            "ratio": (peak - start) / size,
            "target_ratio": END_TARGET,
        }
        for case, size, peak, start in (("server", *body), ("end of run", weights, end, before))
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the measurements as JSON here")
    parser.add_argument(
        "--client", nargs="?", const="all", choices=["all", *SHAPES], help="a client's whole need"
    )
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if options.client:
        print(
            "all in MB; in brackets: libraries, weights, adapter, optimizer, activations, codec, references"
        )
        found = [row for name in SHAPES if options.client in (name, "all") for row in measure_client(name)]
        if options.out:
            options.out.write_text(json.dumps({"benchmark": "client_need", "rows": found}, indent=2) + "\n")
        return 0 if all(row["met"] for row in found) else 1
    rows = [measure(dtype) for dtype in ("float32", "float16")]
    print("checkpoint  front MiB  import MiB  load MiB  load ratio  step ratio  target")
    for row in rows:
        sizes = [
            f"{int(str(row[key])) / MIB:.1f}"
            for key in ("front_weight_bytes", "import_peak_bytes", "load_peak_bytes")
        ]
        print(
            f"{row['checkpoint_dtype']:10s}  {sizes[0]:>9s}  {sizes[1]:>10s}  {sizes[2]:>8s}"
            f"  {row['load_ratio']:>10.3f}  {row['step_ratio']:>10.3f}  {TARGET:>6.1f}"
        )
    others = measure_others()
    for row in others:
        print(
            f"{row['case']:10s}  weights {int(str(row['weight_bytes'])) / MIB:.1f} MiB  ratio {row['ratio']:.3f}"
        )
    if options.out:
        options.out.write_text(
            json.dumps({"benchmark": "client_memory", "rows": rows, "others": others}, indent=2) + "\n"
        )
    return 0 if all(float(str(row["load_ratio"])) <= TARGET for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
