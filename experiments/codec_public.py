"""How well bases that need not be sent suit the hidden states at the cut.

    python experiments/codec_public.py FILE

FILE is a recording of codec_natural.py. Printed for some steps: bits a token of a Gaussian whose coordinates vary as
those of the first epoch's tokens do, each rounded to the step, in several bases: the tokens' own principal directions,
those of the other half of them, none, and eigenvectors of products of weights that both ends have.
"""

import sys
from pathlib import Path

import torch
from codec_natural import natural
from torch import Tensor

from splitcom.codecs.lattice.basis import weights_of
from splitcom.parties.parts import load_parts

STEPS = (0.25, 0.45)
READS, WRITES = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"), ("o_proj", "down_proj")
FIRST = 100  # own directions that are sent, before those of weights


def eigenvectors(moments: Tensor) -> Tensor:
    """Columns, the strongest first."""
    return torch.linalg.eigh(moments).eigenvectors.flip(1)


def bits(values: Tensor, basis: Tensor, step: float) -> float:
    """Per token, of reverse water-filling in these directions at the error of rounding."""
    energies = (values @ basis).square().mean(0) / step**2
    return float((0.5 * torch.log2((12 * energies).clamp(min=1))).sum())


def main() -> None:
    torch.set_num_threads(1)
    kept = torch.load(Path(sys.argv[1]))
    first = [step["values"] for step in kept["steps"] if step["epoch"] == 1]
    values = torch.cat(first).double()
    values = values[weights_of(values.norm(dim=1).numpy()) == 1]
    values = values - values.mean(0)
    unit = values.square().mean().sqrt()
    front = load_parts(natural(kept["changes"])).front
    weights = {name: p.detach().double() for name, p in front.named_parameters() if p.dim() == 2}
    embedding = next(weight for name, weight in weights.items() if "embed" in name)
    bases = {
        "their own": eigenvectors(values.T @ values),
        "of the first half": eigenvectors(values[: len(values) // 2].T @ values[: len(values) // 2]),
        "none": torch.eye(values.shape[1], dtype=torch.float64),
        "embeddings": eigenvectors(embedding.T @ embedding),
    }
    for what, names, turned in (("read", READS, True), ("written", WRITES, False)):
        chosen = [
            weight.T if turned else weight
            for name, weight in weights.items()
            if "lora" not in name and any(part in name for part in names)
        ]
        bases[what] = eigenvectors(sum(weight @ weight.T for weight in chosen))
    own = bases["their own"][:, :FIRST]
    rest = bases["written"] - own @ (own.T @ bases["written"])
    bases[f"{FIRST} of their own, then written"] = torch.linalg.qr(torch.cat([own, rest], 1)).Q
    for step in STEPS:
        for name, basis in bases.items():
            print(f"step {step:g}, {name}: {bits(values, basis, step * float(unit)):.0f} bits a token")


if __name__ == "__main__":
    main()
