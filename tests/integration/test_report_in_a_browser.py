"""The report in headless Chromium: a silent console, plots, the tables' numbers those of the files, times on a link."""

import json
import re
import shutil
import subprocess
from html import unescape

import pytest

from splitcom.methods.compare import compare
from splitcom.report import format_bytes, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--dump-dom",
]

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def comparison(tmp_path_factory, tiny_model):
    from splitcom.config import Config

    out = tmp_path_factory.mktemp("comparison") / "runs"
    config = Config().override(
        {
            "model.source": str(tiny_model),
            "model.device": "cpu",
            "data.samples": 12,
            "data.held_out_samples": 6,
            "training.rounds": 2,
            "training.batch_size": 4,
            "evaluation.generate": 0,
            "evaluation.text_samples": 2,
            "evaluation.max_new_tokens": 4,
        }
    )
    content = compare(config, out, methods=["splitlora", "splitcom"], seeds=[0])
    for run in content["runs"]:
        write_report(out / run["folder"])
    write_report(out)
    return out


def rendered(page, fragment, profile):
    """The document after its script has run; fails where the console has anything to say."""
    run = subprocess.run(
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", f"file://{page}#{fragment}"],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
    )
    assert "CONSOLE" not in run.stderr, run.stderr
    return run.stdout


def cells_of(document):
    rows = re.findall(r"<tr>(.*?)</tr>", document, re.DOTALL)
    texts = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in rows]
    return [[unescape(re.sub(r"<[^>]+>", "", cell)) for cell in row] for row in texts]


def exchanges_of(lines):
    batches = max(line["held_out_batches"] for line in lines)
    return 1 + max(line["steps"] for line in lines) + (1 + batches if batches else 0)


def test_a_comparison_in_a_browser(comparison, tmp_path):
    document = rendered(comparison / "report.html", "up=1&down=10&latency=50", tmp_path)
    runs = json.loads((comparison / "comparison.json").read_text())["runs"]
    methods = {
        row[0]: row for row in reversed(cells_of(document)) if len(row) > 5
    }  # the first table of several
    for run in runs:
        result, folder = run["result"], comparison / run["folder"]
        row = methods[result["label"]]
        assert f"{result['eval']['loss']:.3f}" in row and f"{result['text']['bleu']:.1f}" in row
        assert [format_bytes(result["bytes"][key]) for key in ("up", "down", "total")] == row[5:8]
        # the script's time on the link, computed here again
        rounds: dict[int, list] = {}
        for text in (folder / "metrics.jsonl").read_text().splitlines():
            line = json.loads(text)
            rounds.setdefault(line["round"], []).append(line)
        seconds = sum(
            8 * max(line["bytes"]["up"] for line in lines) / 1e6
            + 8 * max(line["bytes"]["down"] for line in lines) / 1e7
            + 2 * 0.05 * exchanges_of(lines)
            for lines in rounds.values()
        )
        times = [row[1] for row in cells_of(document) if len(row) == 3 and row[0] == result["label"]]
        assert times == [f"{seconds:.1f} s"]
    assert re.findall(r'class="bar" style="[^"]*width: 100%', document)
    for run in runs:  # each method's marks are drawn, and named for the pointer
        series = f'<g data-series="{re.escape(run["result"]["label"])}"><title>.*?</title>.*?<(?:path|use)'
        assert len(re.findall(series, document, re.DOTALL)) >= 3
    assert 'id="pareto"' not in document and document.count("<svg") == 2


def test_a_run_in_a_browser(comparison, tmp_path):
    document = rendered(comparison / "splitcom-seed0" / "report.html", "", tmp_path)
    result = json.loads((comparison / "splitcom-seed0" / "result.json").read_text())
    flows = {row[0]: row for row in cells_of(document) if len(row) == 4}
    for flow in ("activation_up", "gradient_down", "labels_up", "adapter_up", "total"):
        assert flows[flow][1] == format_bytes(result["bytes"][flow])
        assert flows[flow][3] == format_bytes(result["uncompressed_bytes"][flow])
    times = [row for row in cells_of(document) if len(row) == 3]
    assert len(times) == 2 and all(re.fullmatch(r"[\d.]+ s", row[1]) for row in times)
    assert f"{result['text']['bleu']:.3f}" in document and document.count("<svg") == 4
