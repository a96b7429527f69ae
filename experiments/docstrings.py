"""Instructions and answers in natural text, where there is no such data set: the standard library's documentation.

    python experiments/docstrings.py runs/docstrings.jsonl

A row for each public function and class, `instruction` ("Explain what json.dumps(obj, *, skipkeys=False, …) does.") and
`response` (its docstring); 20 words at least, none twice, in an order drawn by seed 0. Rows depend on Python's version.
"""

import importlib
import inspect
import json
import pkgutil
import random
import sys
from pathlib import Path

OUT = Path(sys.argv[1])
NOT_FOR_IMPORT = {"antigravity", "this", "idlelib", "turtledemo", "test", "lib2to3", "__main__"}


def members(name: str) -> list[tuple[str, object]]:
    """What a module of the standard library defines in public, and methods of its classes."""
    try:
        module = importlib.import_module(name)
    except (ImportError, OSError):  # of another system
        return []
    own = [(f"{name}.{key}", value) for key, value in vars(module).items() if not key.startswith("_")]
    own = [(key, value) for key, value in own if getattr(value, "__module__", None) == name]
    inner = [
        (f"{key}.{part}", value)
        for key, held in own
        if inspect.isclass(held)
        for part, value in vars(held).items()
        if not part.startswith("_") and inspect.isroutine(value)
    ]
    return own + inner


rows: dict[str, str] = {}
for found in sorted(pkgutil.iter_modules([str(Path(inspect.__file__).parent)])):
    if found.name in NOT_FOR_IMPORT or found.name.startswith("_"):
        continue
    for name, value in members(found.name):
        text = inspect.getdoc(value) if callable(value) else None
        if text is None or len(text.split()) < 20:
            continue
        try:
            signature = str(inspect.signature(value))  # type: ignore[arg-type]
        except (TypeError, ValueError):
            signature = ""
        if " at 0x" in signature:  # an address
            continue
        rows.setdefault(text, f"Explain what {name}{signature} does.")
pairs = [{"instruction": instruction, "response": text} for text, instruction in sorted(rows.items())]
random.Random(0).shuffle(pairs)
OUT.parent.mkdir(parents=True, exist_ok=True)
OUT.write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
print(f"{len(pairs)} rows in {OUT}")
