import json
import re
import xml.etree.ElementTree as ElementTree
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from splitcom.errors import RunError
from splitcom.methods.run import Run as PublicRun
from splitcom.report import load_comparison, load_run, save_plot, write_report
from splitcom.report.plots import decided, loss_curve

from .report_runs import METHODS, make_comparison, make_run

VOID = {"meta", "br", "img", "link", "input"}


class Page(HTMLParser):
    """Checks that elements nest, and collects ids, tags, addresses and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data


def report(folder: Path) -> tuple[str, Page]:
    path = write_report(folder)
    assert path == folder / "report.html"
    assert not list(folder.glob(".*partial"))
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def test_run_report_shows_the_run(run_folder: Path) -> None:
    text, page = report(run_folder)
    assert page.tags.count("svg") == 4
    result = load_run(run_folder).result
    for shown in (f"{result.eval.loss:.3f}", "5.75 MB", "84.9 %", "activation_up", "torch", "[codec]"):
        assert shown in page.text
    for svg in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL):
        ElementTree.fromstring(svg)


def test_page_is_self_contained(comparison_folder: Path) -> None:
    text, page = report(comparison_folder)
    assert all(address.startswith("#") for address in page.addresses)
    assert not {"img", "iframe"} & set(page.tags)
    assert not re.search(r"@import|url\((?!#)", text)
    assert "default-src 'none'" in text


def test_references_within_plots_resolve_and_ids_are_unique(run_folder: Path) -> None:
    text, page = report(run_folder)
    assert len(page.ids) == len(set(page.ids))
    used = {address[1:] for address in page.addresses} | set(re.findall(r"url\(#([^)]+)\)", text))
    assert used and used <= set(page.ids)


def test_same_run_gives_the_same_report(run_folder: Path) -> None:
    assert report(run_folder)[0] == report(run_folder)[0]


def test_every_text_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('&\"')</script> $x$ $y"
    sample = dict.fromkeys(("prompt", "reference", "before", "after"), evil)
    changes = {"label": evil, "model": evil, "environment": {evil: evil}, "samples": [sample]}
    folder = tmp_path / "run"
    make_run(folder, **changes)
    (folder / "config.toml").write_text(f"# {evil}\n")
    _, page = report(folder)
    assert page.tags.count("script") == 2  # the data and the page's own
    # title, heading, model, link, sample, config, environment
    assert page.text.count(evil) == 2 + 1 + 1 + 4 + 1 + 2
    compared = make_comparison(tmp_path / "c", seeds=1, methods=[METHODS[0], METHODS[4] | changes])
    _, page = report(compared)
    assert page.tags.count("script") == 2 and page.text.count(evil) >= 4  # two tables, two plots


def test_comparison_report_shows_every_method_and_links_reports_that_exist(comparison_folder: Path) -> None:
    write_report(comparison_folder / "splitlora0-seed1")
    _, page = report(comparison_folder)
    for method in METHODS[:5]:
        assert method["label"] in page.text
    assert [a for a in page.addresses if not a.startswith("#")] == ["splitlora0-seed1/report.html"]
    assert "± 0.003" in page.text and page.tags.count("svg") == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"rounds": 1, "clients": 1},
        {"rounds": 40, "clients": 12},
        {"method": "centralised", "label": "centralised", "scale": 0.0, "adapters": 0},
        {"floor": float("nan")},
        {"floor": float("inf")},
        {"rounds": 0},
    ],
    ids=["one round", "many clients", "nothing sent", "diverged", "infinite", "no round"],
)
def test_unusual_runs_have_reports(tmp_path: Path, changes: dict[str, object]) -> None:
    make_run(tmp_path / "c" / "run", **changes)
    result = json.loads((tmp_path / "c" / "run" / "result.json").read_text())
    (tmp_path / "c" / "comparison.json").write_text(
        json.dumps({"runs": [{"folder": "run", "result": result}]})
    )
    report(tmp_path / "c" / "run")
    report(tmp_path / "c")


def test_loss_curve_counts_bytes_as_the_result_does(run_folder: Path) -> None:
    path = run_folder / "metrics.jsonl"
    before = {
        "round": 0,
        "client": 0,
        "loss": None,
        "eval_loss": 9.9,
        "bytes": {"control": 7, "up": 7, "total": 7},
    }
    path.write_text(json.dumps(before) + "\n" + path.read_text())
    run = load_run(run_folder)
    sent, losses = loss_curve(run)
    assert len(losses) == 4 and losses[-1] == run.result.eval.loss
    assert sent[-1] == run.result.bytes["total"] + 7


def test_classes_are_shown_with_what_they_were_told_as(tmp_path: Path) -> None:
    few = {"labels": ["<no>", "yes"], "counts": [[3, 1], [0, 0]]}
    make_run(tmp_path / "few", confusion=few)
    page = write_report(tmp_path / "few").read_text()
    cells = [unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", page)]
    place = cells.index("<no>")
    assert cells[place : place + 8] == ["<no>", "3", "1", "75.0 %", "yes", "0", "0", "–"]
    names = [f"class {place}" for place in range(30)]
    counts = [
        [10 if row == column else row * (column == row - 1) for column in range(30)] for row in range(30)
    ]
    make_run(tmp_path / "many", confusion={"labels": names, "counts": counts})
    page = write_report(tmp_path / "many").read_text()
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page)
    place = cells.index("class 29")
    assert cells[place : place + 3] == ["class 29", "class 28", "29"] and "of 435." in page


def test_a_run_draws_itself(run_folder: Path) -> None:
    run = PublicRun(run_folder, {})
    for name in ("loss", "bytes", "training"):
        assert run.plot(name).axes[0].get_ylabel() or name == "bytes"
    assert run.plot().axes[0].get_xlabel() == "bytes sent, up and down"
    with pytest.raises(RunError, match="no plot 'accuracy' of this run; there are loss, bytes, training"):
        run.plot("accuracy")


def test_plot_is_saved_for_the_documentation(comparison_folder: Path, tmp_path: Path) -> None:
    path = save_plot(comparison_folder, tmp_path / "plot.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RunError, match="cannot be written"):
        save_plot(comparison_folder, tmp_path / "nowhere" / "plot.png")


def test_plot_works_where_only_results_are_kept(comparison_folder: Path) -> None:
    for run in load_comparison(comparison_folder).runs:
        run.folder.rename(comparison_folder.parent / run.folder.name)
    _, page = report(comparison_folder)
    assert page.tags.count("svg") == 2


def test_skips_without_thresholds_are_drawn_alone(run_folder: Path) -> None:
    path = run_folder / "metrics.jsonl"
    path.write_text(path.read_text().replace('{"activation_up": 0.98}', '{"activation_up": null}'))
    _, page = report(run_folder)
    assert "skipped samples" in page.text and page.text.count("threshold") == 0


def test_steps_and_thresholds_have_panels_of_their_own(run_folder: Path) -> None:
    (run_folder / "config.toml").write_text(
        '[flows.activation_up]\ncodec = "predict > klt > uniform(1) > range"\n'
        '[flows.gradient_down]\ncodec = "temporal(0.98) > int8"\n'
    )
    path = run_folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    both = {"threshold": {"activation_up": 2.0, "gradient_down": 0.98}}
    path.write_text("\n".join(json.dumps(line | both) for line in lines))

    assert decided(load_run(run_folder)) == {
        "threshold": ["gradient_down"],
        "step": ["activation_up"],
        "skipped samples": ["activation_up"],
    }


def test_the_time_is_that_of_links_only_if_there_are_any(run_folder: Path) -> None:
    config = run_folder / "config.toml"

    config.write_text("[links]\nup_mbps = false\nclients = {}\n")
    assert "modelled links" not in report(run_folder)[1].text
    config.write_text("[links]\nup_mbps = 10.0\n")
    assert "modelled links" in report(run_folder)[1].text


def test_a_run_is_titled_by_its_folder_and_a_variant_by_its_name(run_folder: Path) -> None:
    path = run_folder / "result.json"
    result = json.loads(path.read_text())

    path.write_text(json.dumps(result | {"label": result["method"]}))
    assert "<title>run</title>" in report(run_folder)[0]
    path.write_text(json.dumps(result | {"label": "a variant"}))
    assert "<title>a variant</title>" in report(run_folder)[0]


def test_nothing_is_drawn_for_a_codec_that_cannot_skip(run_folder: Path) -> None:
    path = run_folder / "metrics.jsonl"
    lines = [json.loads(line) | {"threshold": {}} for line in path.read_text().splitlines()]
    path.write_text("\n".join(json.dumps(line | {"skip_ratio": {"gradient_down": 0.0}}) for line in lines))
    _, page = report(run_folder)
    assert "skipped samples" not in page.text and page.tags.count("svg") == 3


def test_run_that_only_shook_hands_has_a_report(run_folder: Path) -> None:
    (run_folder / "metrics.jsonl").write_text('{"round": 0, "client": "clinic", "bytes": {"control": 7}}\n')
    _, page = report(run_folder)
    assert page.tags.count("svg") == 0


def test_other_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run or comparison to be found here"):
        write_report(tmp_path)


def test_failed_report_leaves_the_earlier_one(run_folder: Path) -> None:
    earlier = report(run_folder)[0]
    (run_folder / "result.json").write_text("{")
    with pytest.raises(RunError, match=r"result\.json: content"):
        write_report(run_folder)
    assert (run_folder / "report.html").read_text(encoding="utf-8") == earlier
