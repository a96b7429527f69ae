import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitcom.errors import RunError
from splitcom.metrics.ledger import FLOWS
from splitcom.report import (
    closing_table,
    load_comparison,
    results_markdown,
    write_markdown,
    write_report,
)
from splitcom.report.colour import flow_colour, label_styles
from splitcom.report.folder import Result
from splitcom.report.format import format_bytes, format_percent, format_significant
from splitcom.report.summary import Row, pareto_front, summarise

from .report_runs import METHODS, make_comparison, make_run


@pytest.fixture
def rows(comparison_folder: Path) -> dict[str, Row]:
    return {
        row.label: row for row in summarise([run.result for run in load_comparison(comparison_folder).runs])
    }


def test_mean_and_spread_over_seeds(rows: dict[str, Row]) -> None:
    # the losses of seeds 0 and 1 differ by 0.004
    row = rows["frozen_front"]
    assert row.seeds == (0, 1)
    assert row.loss.mean == pytest.approx(2.25 + 1.3 * math.exp(-2.8) + 0.002)
    assert row.loss.spread == pytest.approx(0.004 / math.sqrt(2))


def test_share_and_change_are_against_splitlora(rows: dict[str, Row]) -> None:
    base, frozen = rows["splitlora"], rows["frozen_front"]
    assert base.share is not None and frozen.share is not None and frozen.change is not None
    assert base.share.mean == 1
    assert frozen.share.mean == pytest.approx(frozen.total.mean / base.total.mean)
    last = 1.3 * math.exp(-2.8)
    paired = [(2.25 + last + d) / (2.18 + last + d) - 1 for d in (0, 0.004)]
    assert frozen.change.mean == pytest.approx(sum(paired) / 2)
    assert rows["centralised"].share is not None and rows["centralised"].share.mean == 0


def test_without_splitlora_the_share_is_of_the_same_run_as_fp16(tmp_path: Path) -> None:
    result = Result.model_validate(make_run(tmp_path / "run"))
    [row] = summarise([result])
    assert row.change is None and row.loss.spread is None
    assert row.share is not None and row.share.mean == pytest.approx(1 - result.saving["total"])


def test_of_several_uncompressed_variants_the_first_is_the_measure(tmp_path: Path) -> None:
    made = [
        make_run(tmp_path / label, method="splitlora", label=label, floor=floor)
        for label, floor in {"one step": 2.0, "two steps": 1.5}.items()
    ]
    first, second = summarise([Result.model_validate(one) for one in made])
    assert first.change is not None and second.change is not None
    assert first.change.mean == 0 and second.change.mean < -0.1


def test_one_diverged_seed_is_not_hidden(tmp_path: Path) -> None:
    made = [
        make_run(tmp_path / str(seed), seed=seed, floor=floor) for seed, floor in enumerate((2.0, math.inf))
    ]
    [row] = summarise([Result.model_validate(one) for one in made])
    assert math.isinf(row.loss.mean) and row.loss.spread is not None and math.isnan(row.loss.spread)


def test_where_nothing_could_be_sent_there_is_no_share(tmp_path: Path) -> None:
    made = make_run(tmp_path / "run", method="centralised", label="centralised", scale=0.0, adapters=0)
    [row] = summarise([Result.model_validate(made)])
    assert row.share is None


def test_closing_table_has_a_row_per_method(tmp_path: Path) -> None:
    from rich.console import Console

    results = [
        make_run(tmp_path / "a", "splitlora", "splitlora", scale=1.0),
        make_run(tmp_path / "b", label="splitcom [bold]x[/bold]", scale=0.1),
    ]
    console = Console(width=80, record=True)
    console.print(closing_table(results))
    text = console.export_text()
    assert "share: of splitlora's total; held-out loss before training: 3.480" in text
    assert "[bold]x[/bold]" in text, "a label is no rich markup"
    assert format_bytes(results[0]["bytes"]["up"]) in text and "15.1 %" in text
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text


def test_closing_table_names_a_wrong_field() -> None:
    with pytest.raises(RunError, match="result: method"):
        closing_table([{"label": "x"}])


def test_markdown_table(comparison_folder: Path) -> None:
    text = results_markdown([comparison_folder], command="make results", image="figures/{name}.png")
    lines = text.splitlines()
    assert "`make results`" in lines[0]
    assert "Model `bundled`; clients: 3; rounds: 4." in lines
    assert f"![Held-out loss against bytes sent, {comparison_folder.name}](figures/comparison.png)" in lines
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert {len(cells) for cells in table} == {12}
    frozen = dict(zip(table[0], next(cells for cells in table if cells[0] == "`frozen_front`"), strict=True))
    assert frozen["seeds"] == "2"
    assert frozen["last loss"] == "2.3311 ± 0.0028"
    assert frozen["against splitlora, %"] == "+3.10 ± 0.00"
    assert frozen["of splitlora, %"] == "10.4 ± 0.0"
    assert frozen["total, MB"] == "3.95 ± 0.00"


def test_markdown_without_splitlora_says_what_the_share_is_of(tmp_path: Path) -> None:
    folder = make_comparison(tmp_path / "c", seeds=1, methods=METHODS[4:6])
    text = results_markdown([folder], command="make results")
    assert "of uncompressed, %" in text and "of splitlora, %" not in text


def test_markdown_compares_at_equal_rounds_only(tmp_path: Path) -> None:
    folder = make_comparison(tmp_path / "c", seeds=1, methods=[METHODS[0], METHODS[1] | {"rounds": 2}])
    with pytest.raises(RunError, match=r"rounds differ \(2 in frozen_front1-seed0, 4 in splitlora0-seed0"):
        results_markdown([folder], command="make results")


def test_page_for_the_documentation_is_written_with_its_plots(tmp_path: Path) -> None:
    folders = [make_comparison(tmp_path / name, seeds=1, methods=METHODS[:2]) for name in ("a", "b")]
    path = write_markdown(folders, tmp_path / "docs" / "results.md")
    text = path.read_text(encoding="utf-8")
    assert f"`splitcom report {folders[0]} {folders[1]} --markdown {path}`" in text.splitlines()[0]
    plots = re.findall(r"!\[.*\]\((.*)\)", text)
    assert plots == ["figures/a.png", "figures/b.png"]
    assert all((path.parent / plot).read_bytes().startswith(b"\x89PNG") for plot in plots)


def test_page_is_refused_where_plots_would_replace_one_another(tmp_path: Path) -> None:
    folders = [make_comparison(tmp_path / name / "c", seeds=1, methods=METHODS[:1]) for name in ("a", "b")]
    with pytest.raises(RunError, match="c, c: two comparisons have the same name"):
        write_markdown(folders, tmp_path / "results.md")


def test_every_flow_of_the_totals_has_its_own_colour() -> None:
    assert len({flow_colour(flow) for flow in FLOWS}) == len(FLOWS)


@settings(deadline=None, max_examples=30)
@given(others=st.integers(0, 24))
def test_no_two_methods_look_alike(others: int) -> None:
    base: dict[str, Any] = dict.fromkeys(Row.__dataclass_fields__)
    methods = ["splitlora", "frozen_front", "fedlora", "centralised", *[f"codec{n}" for n in range(others)]]
    styles = label_styles(Row(**base | {"label": name, "method": name}) for name in methods)
    assert len({(style.colour, style.marker) for style in styles.values()}) == len(methods)


@settings(deadline=None, max_examples=200)
@given(size=st.integers(0, 10**17))
def test_bytes_are_written_to_three_digits(size: int) -> None:
    number, unit = format_bytes(size).split()
    scale = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15}[unit]
    assert float(number) * scale == pytest.approx(size, rel=0.005)
    assert float(number) < 1000


@settings(deadline=None, max_examples=200)
@given(value=st.floats(1e-9, 1e12))
def test_three_significant_digits(value: float) -> None:
    assert float(format_significant(value)) == pytest.approx(value, rel=0.005)


@pytest.mark.parametrize(("below", "above"), [(0.9994, 0.9996), (0.0098, 0.0102), (0.98996, 0.9905)])
def test_percentages_stay_apart_where_digits_change(below: float, above: float) -> None:
    assert float(format_percent(below)[:-2]) < float(format_percent(above)[:-2])


def test_the_pareto_front_is_what_no_other_row_beats_in_both(comparison_folder: Path) -> None:
    rows = summarise([run.result for run in load_comparison(comparison_folder).runs])
    front = pareto_front(rows)
    for row in rows:
        better = [o for o in rows if o.total.mean < row.total.mean and o.loss.mean < row.loss.mean]
        assert (row in front) == (not better)
    assert [row.total.mean for row in front] == sorted(row.total.mean for row in front)


def test_accuracy_takes_the_place_of_perplexity_where_there_are_classes(tmp_path: Path) -> None:
    for seed, accuracy in enumerate((0.75, 0.85)):
        made = make_run(tmp_path / f"run{seed}", seed=seed)
        made["eval"]["accuracy"] = accuracy
        (tmp_path / f"run{seed}" / "result.json").write_text(json.dumps(made))
    results = [json.loads((tmp_path / f"run{seed}" / "result.json").read_text()) for seed in range(2)]
    runs = [{"folder": f"run{seed}", "result": result} for seed, result in enumerate(results)]
    (tmp_path / "comparison.json").write_text(json.dumps({"runs": runs}))

    headers = [column.header for column in closing_table(results).columns]
    assert "accuracy, %" in headers and "perplexity" not in headers
    markdown = results_markdown([tmp_path], "make results")
    assert "| accuracy, % |" in markdown and "80.0 ± 7.1" in markdown
    assert "BLEU" not in markdown
    write_report(tmp_path / "run0")
    page = (tmp_path / "run0" / "report.html").read_text()
    assert "75.0 %" in page and "nats/sample" in page and "perplexity" not in page.lower()
