"""Peak memory of a client's front, a server's body and the end of a run, above an interpreter with the imports.

    python benchmarks/client_memory.py --out client_memory.json

Writes a randomly initialised Llama-shaped checkpoint of 300 M parameters in shards into a temporary folder, then
measures each case in a process of its own: the peak resident memory (VmHWM, Linux) after loading the front and
reading every weight once, and after a LoRA training step of 64 tokens on top. Target: loading peaks at most at
1.3 times the front's own weights above the import.

Then, in bfloat16, the server's body of the same checkpoint, and the end of a run: all parts are loaded with an adapter,
as `generate`, `evaluate` and the end of `train` have them, and write eight tokens before and after training. Target: at
most 1.15 times the weights, as they are stored.
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
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
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
