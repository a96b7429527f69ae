"""The files of deploy/: they name metrics, commands, options, settings and paths that there are."""

import json
import re
from pathlib import Path

import pytest
import typer
import yaml

from splitcom.cli import app
from splitcom.config import Config
from splitcom.methods.monitor import Snapshot, _families
from splitcom.server.peers import Standing
from splitcom.transports.grpc_server import ClientTraffic

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy"


@pytest.fixture(scope="module")
def families():
    """Name, kind and labels of every metric of a run in which there is something of everything."""
    filled = Snapshot(
        rounds=1,
        thresholds={"activation_up": 0.9},
        step_seconds={"body": 1.0},
        phase_seconds={"body": 1.0},
        refusals={"FULL": 1},
        clients={"a": ClientTraffic(True, 1, 1, 0)},
        standings={"a": Standing("idle")},
        against_others={"a": {"loss": 1.0}},
        unlike={"a": 1},
    )
    return {name: (kind, set(samples[0][0])) for name, kind, _, samples in _families(filled)}


def test_metrics_are_named_as_prometheus_has_it(families):
    for name, (kind, _) in families.items():
        assert re.fullmatch(r"splitcom(_[a-z]+)+", name)
        assert (kind == "counter") == name.endswith("_total"), name
        assert not re.search(r"_(s|ms|mb|kb|count|sum|bucket|info)(_total)?$", name), f"{name}: no base unit"


def test_the_dashboard_shows_metrics_and_labels_that_there_are(families):
    dashboard = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) == len({p["title"] for p in panels})
    shown = set()
    for panel in panels:
        for target in panel["targets"]:
            names = set(re.findall(r"splitcom_\w+", target["expr"]))
            assert names and names <= families.keys(), panel["title"]
            shown |= names
            labels = set.union(*(families[name][1] for name in names))
            grouped = re.findall(r"by \((\w+)\)", target["expr"])
            assert {*re.findall(r"{{(\w+)}}", target["legendFormat"]), *grouped} <= labels, panel["title"]
            for name in names:
                is_rate = f"rate({name}[" in target["expr"]
                assert is_rate <= (families[name][0] == "counter"), f"{panel['title']}: rate of {name}"
            if is_rate:
                assert panel["fieldConfig"]["defaults"]["unit"] in ("Bps", "percentunit")
    assert {"splitcom_client_waited_seconds", "splitcom_phase_seconds_total"} <= shown


def test_the_services_of_the_compose_file_are_commands_with_paths_that_there_are():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    services = compose["services"]
    assert set(services) == {"server", *Config.load(DEPLOY / "run.toml").federation.names}
    recipe = DEPLOY / compose["x-party"]["build"]["context"] / "Dockerfile"
    text = recipe.read_text(encoding="utf-8")
    assert set(compose["x-party"]["build"]["args"]) <= set(re.findall(r"^ARG (\w+)=", text, re.MULTILINE))
    documents = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    for name, service in services.items():
        subcommand = service["command"][0]
        command = typer.main.get_command(app).commands[subcommand]  # type: ignore[attr-defined]
        with command.make_context(subcommand, list(service["command"][1:])) as context:
            given = context.params
        mounted = {target: source for source, target, *_ in (v.split(":") for v in service["volumes"])}
        assert mounted["/data"] == f"./{name}"  # where the image works
        if subcommand == "serve":
            assert (DEPLOY / mounted[f"/data/{given['config']}"]).is_file()
            listens, shows = (given[option].rpartition(":")[2] for option in ("listen", "metrics"))
            published = [port.rpartition(":")[2] for port in service["ports"]]
            assert published == [listens, shows] and f":{shows}/healthz" in service["healthcheck"]["test"][-1]
            assert f"EXPOSE {listens}" in text
            needed = [f"{name}/{given['authority']}"]
        else:
            assert given["address"] == f"server:{listens}" and given["yes"]
            needed = [f"{name}/{given['identity']}", f"{name}/{given['data']}"]
            assert Path(given["identity"]) == Path(f"{name}.pem")
        for path in needed:
            assert f"`{path.replace('clinic-a', 'NAME')}`" in documents or name in ("clinic-b", "clinic-c")
