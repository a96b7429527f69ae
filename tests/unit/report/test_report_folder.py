import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from splitcom.durable import write_atomic
from splitcom.errors import RunError
from splitcom.report import load_comparison, load_run

from .report_runs import FLOWS, make_run


def edit(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text())
    for key, value in changes.items():
        content[key] = value
    path.write_text(json.dumps(content))


def test_run_is_read_as_written(run_folder: Path) -> None:
    run = load_run(run_folder)
    assert run.result.label == "splitcom temporal(0.98) > delta > int4"
    assert [(line.round, line.client) for line in run.metrics[:4]] == [(1, 0), (1, 1), (1, 2), (2, 0)]
    assert run.result.bytes["total"] == sum(
        size for line in run.metrics for flow, size in line.bytes.items() if flow in FLOWS
    )


def test_a_result_whose_totals_leave_evaluation_out_is_refused(run_folder: Path) -> None:
    sent = json.loads((run_folder / "result.json").read_text())["bytes"]
    edit(run_folder / "result.json", bytes=sent | {"total": sent["total"] - sent["evaluation"]})
    with pytest.raises(RunError, match="totals without evaluation, as earlier versions counted"):
        load_run(run_folder)


def test_keys_of_later_versions_are_no_damage(run_folder: Path) -> None:
    edit(run_folder / "result.json", novelty=1)
    assert load_run(run_folder).result.seed == 0


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("bundled", "bundled"),
        ("org/gpt", "org/gpt"),
        ("/data/models/tiny", "tiny"),
        ("../assets/tiny/", "tiny"),
    ],
)
def test_reports_do_not_show_where_a_model_lies(run_folder: Path, model: str, name: str) -> None:
    edit(run_folder / "result.json", model=model)
    assert load_run(run_folder).result.model_name == name


@pytest.mark.parametrize("name", ["result.json", "metrics.jsonl", "config.toml"])
def test_missing_file_is_named(run_folder: Path, name: str) -> None:
    (run_folder / name).unlink()
    with pytest.raises(RunError, match=f"{name}: no such file"):
        load_run(run_folder)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"rounds": "many"}, "rounds: .*found 'many'"),
        ({"eval": {"loss": 2.0}}, "eval.perplexity"),
        ({"bytes": {"up": 1, "down": 1}}, "bytes: .*lacks total"),
        ({"seconds": None}, "seconds"),
        ({"samples": [{"prompt": "x"}]}, "samples.0.reference"),
    ],
)
def test_damaged_result_names_the_field(run_folder: Path, changes: dict[str, Any], field: str) -> None:
    edit(run_folder / "result.json", **changes)
    with pytest.raises(RunError, match=f"result.json: {field}"):
        load_run(run_folder)


def test_damaged_metrics_name_the_line(run_folder: Path) -> None:
    path = run_folder / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], lines[2][:40]]))
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 3: content: Invalid JSON"):
        load_run(run_folder)


def test_file_that_is_no_text_is_named(run_folder: Path) -> None:
    (run_folder / "result.json").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(RunError, match=r"result\.json: cannot be read"):
        load_run(run_folder)


def test_diverged_run_can_be_read(tmp_path: Path) -> None:
    make_run(tmp_path / "run", floor=float("nan"))
    assert load_run(tmp_path / "run").result.eval.loss != load_run(tmp_path / "run").result.eval.loss


def test_comparison_keeps_results_whose_folders_are_gone(comparison_folder: Path) -> None:
    (comparison_folder / "splitlora0-seed1").rename(comparison_folder.parent / "elsewhere")
    runs = load_comparison(comparison_folder).runs
    gone = [run for run in runs if not run.metrics]
    assert [(run.folder.name, run.result.seed) for run in gone] == [("splitlora0-seed1", 1)]


def test_empty_or_damaged_comparison_is_refused(comparison_folder: Path) -> None:
    path = comparison_folder / "comparison.json"
    edit(path, runs=[])
    with pytest.raises(RunError, match=r"comparison\.json: runs is empty"):
        load_comparison(comparison_folder)
    edit(path, runs=[{"folder": "a"}])
    with pytest.raises(RunError, match=r"comparison\.json: runs\.0\.result"):
        load_comparison(comparison_folder)


def test_failed_write_leaves_the_earlier_file(tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()  # replacing a folder by a file fails, after the content was written
    with pytest.raises(RunError, match=r"report\.html: cannot be written"):
        write_atomic(tmp_path / "report.html", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(RunError, match="cannot be written"):
        write_atomic(tmp_path / "nowhere" / "report.html", b"content")


def test_import_loads_neither_torch_nor_matplotlib() -> None:
    script = (
        "import sys, splitcom; before = set(sys.modules); import splitcom.report; "
        "print({'torch', 'transformers', 'matplotlib'} & (set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
