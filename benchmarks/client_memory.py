"""Peak memory of a client that loads its front, against an interpreter that has only imported the package.

    python benchmarks/client_memory.py --out client_memory.json

Writes a randomly initialised Llama-shaped checkpoint of 300 M parameters in shards into a temporary folder, then
measures each case in a process of its own: the peak resident memory (VmHWM, Linux) after loading the front and
reading every weight once, and after a LoRA training step of 64 tokens on top. Target: loading peaks at most at
1.3 times the front's own weights above the import.
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

IMPORT = "import splitcom.models" + PEAK + "print(peak())"

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
    if options.out:
        options.out.write_text(json.dumps({"benchmark": "client_memory", "rows": rows}, indent=2) + "\n")
    return 0 if all(float(str(row["load_ratio"])) <= TARGET for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
