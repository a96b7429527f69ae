"""One of several processes of an engine, as torchrun starts them; forked from one that has imported everything.

Run by path (runpy) with these set; what the process prints goes to LOG.

    ENVIRONMENT  what torchrun tells it
    ARGUMENTS    of the command; None compares engines (`compare`), on the model in MODEL
    DIES_AT      None, or the position of the step before which it is killed
"""

import os
import runpy
import signal
import sys
from pathlib import Path

import pytest
import torch

from splitcom.cli import main
from splitcom.config import Config
from splitcom.engines import LocalEngine
from splitcom.engines.processes import follows, joined
from splitcom.engines.sharded import ShardedEngine, Share, follow
from splitcom.errors import NonFiniteError
from splitcom.models import load_body, load_tail

LOCAL_TESTS = Path(__file__).parents[1] / "unit" / "engines" / "test_local.py"


def die_at(position):
    """Have this process killed when its share of a step is about to begin."""
    step = Share.step

    def deadly(self, arrivals, where, progress):
        if where == position:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, arrivals, where, progress)

    Share.step = deadly


def compare(model):
    """Steps of both forms, evaluation, checkpoints and numbers that are not finite, against one process."""
    given = runpy.run_path(str(LOCAL_TESTS))

    def body_of(config):
        return given["with_lora"](load_body(model, 2, config.model.tail_blocks))

    with joined():
        if follows():
            follow(body_of)
            return
        for changes in (
            {},
            {"engine.max_tokens_per_pass": 12},
            {"federation.max_gradient_ratio": 100.0},
            {"training.label_smoothing": 0.1, "model.tail_blocks": 1},
            {"engine.max_tokens_per_pass": 12, "model.tail_blocks": 1},
        ):
            options = {"model.source": str(model), "model.device": "cpu", "training.clip_norm": 1e9}
            config = Config().override(options | changes)
            engines = [kind(body_of(config), config) for kind in (ShardedEngine, LocalEngine)]
            found, expected = (outcome(engine, config, given) for engine in engines)
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-6, msg=f"{name} {changes}")
            if not config.model.tail_blocks:
                check_spoilt_step(engines[0], given)
    print("as in one process")


def outcome(engine, config, given):
    """What two steps, one of them of a single sample, leave; and held-out samples."""
    batches = {
        name: given["batch_of"](lengths, seed)
        for seed, (name, lengths) in enumerate(given["CLIENTS"].items())
    }
    held_out = given["arrival_of"](*batches["c"])
    found = {}
    for step, names in enumerate([list(batches), ["b"]]):
        mine = {name: batches[name] for name in names}
        results = one_step(engine, config, mine, (1, step), given)
        found |= {f"{step} gradient {name}": result.gradient.values for name, result in results.items()}
        found |= {f"{step} loss {name}": torch.tensor(result.loss_sum) for name, result in results.items()}
        if step == 0:  # goes on from a checkpoint
            state = engine.state()
            engine.load_state({name: tensor.clone() for name, tensor in state.items()})
    if config.model.tail_blocks:
        found["held out"] = engine.pass_held_out(given["arrival_of"](batches["c"][0])).values
    else:
        found["held out"] = torch.tensor(engine.evaluate(held_out).loss_sum)
    return found | engine.state()


def one_step(engine, config, batches, position, given):
    if not config.model.tail_blocks:
        return engine.step(
            {name: given["arrival_of"](*batch) for name, batch in batches.items()}, position, 0.5
        )
    passage = engine.forward(
        {name: given["arrival_of"](decoded) for name, (decoded, _) in batches.items()}, position
    )
    tail = given["with_lora"](load_tail(config.model.source, 1))
    back = {
        name: given["through"](tail, passage.out_of(name), labels) for name, (_, labels) in batches.items()
    }
    return engine.backward(passage, back, 0.5)


def check_spoilt_step(engine, given):
    """All refuse a step that is not finite in one process alone, and change nothing."""
    good, (decoded, labels) = given["arrival_of"](*given["batch_of"]([5, 8], 1)), given["batch_of"]([11], 2)
    decoded.batch.values[0] = torch.nan
    bad, before = given["arrival_of"](decoded, labels), engine.state()
    with pytest.raises(NonFiniteError, match="training has diverged"):
        engine.step({"a": good, "b": bad}, (2, 0), 0.5)
    assert all(torch.equal(value, before[key]) for key, value in engine.state().items())
    assert engine.is_sound(good) and not engine.is_sound(bad)


if __name__ == "__main__":
    os.environ |= ENVIRONMENT  # noqa: F821
    log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)  # noqa: F821
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    torch.set_num_threads(1)
    if DIES_AT is not None:  # noqa: F821
        die_at(DIES_AT)  # noqa: F821
    if ARGUMENTS is None:  # noqa: F821
        compare(MODEL)  # noqa: F821
    else:
        sys.argv = ["splitcom", *ARGUMENTS]  # noqa: F821
        main()
