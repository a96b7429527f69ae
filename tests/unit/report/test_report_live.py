import json
from io import StringIO
from pathlib import Path

from rich.console import Console

from splitcom.report.format import format_bytes
from splitcom.report.live import progress_table


def shown(folder: Path, rounds: int) -> str:
    console = Console(file=StringIO(), width=80)
    console.print(progress_table(folder, rounds))
    return console.file.getvalue()


def test_a_run_is_shown_as_far_as_it_has_come(run_folder: Path) -> None:
    whole = shown(run_folder, 4)
    total = json.loads((run_folder / "result.json").read_text())["bytes"]["total"]
    assert "round 4 of 4" in whole and format_bytes(total) in whole and "activation_up" in whole
    assert "0.98" in whole and "…" not in whole
    path = run_folder / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    assert "round 1 of 4" in shown(run_folder, 4)
    path.unlink()
    assert "round 0 of 4" in shown(run_folder, 4)
