"""The dashboard: what its panels name is logged, and W&B has one view and one report however often it is pushed."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import refused
from test_online import impatient, server  # noqa: F401
from test_wandb import nobody, read_back  # noqa: F401

from ddattr.attribution.methods import METHODS, method_of
from ddattr.tracking.dashboard import SECTIONS, TITLE, outline, specs


def panels(name: str) -> dict[str, list[dict[str, Any]]]:
    """Panels of the workspace or the report, by section."""
    spec = specs()[name]
    if name == "workspace":
        return {part["name"]: part["panels"] for part in spec["section"]["panelBankConfig"]["sections"]}
    grids = [block for block in spec["blocks"] if block["type"] == "panel-grid"]
    return {
        part.name: grid["metadata"]["panelBankSectionConfig"]["panels"]
        for part, grid in zip(SECTIONS, grids, strict=True)
    }


def named(panel: dict[str, Any]) -> set[str]:
    """What a panel shows: keys of history and summary as they are, those of a config behind `config:`."""
    config = panel["config"]
    if panel["viewType"] == "Weave":
        return {config["panel2Config"]["exp"]["fromOp"]["inputs"]["key"]["val"]}
    axes = {column["accessor"].removeprefix("summary:") for column in config.get("columns", [])}
    axis = {config["xAxis"]} if panel["viewType"] == "Run History Line Plot" else set()
    return axes | axis | set(config.get("metrics", [])) | set(config.get("mediaKeys", []))


def logged(root, job: str) -> set[str]:
    """Keys of the history and the config of a job's offline run, as `named` gives them."""
    found = read_back(root, job)
    keys = {key for row in found["history"] for key in row}

    def flat(value: Any, *path: str) -> None:
        keys.add("config:" + ".".join([path[0], "value", *path[1:]]) if path else "")
        for key, part in value.items() if isinstance(value, dict) else ():
            flat(part, *path, key)

    flat(found["config"])
    return keys


def without_gradients(keys: set[str]) -> set[str]:
    """Keys; the method of those that need the extra `peers`, which a small run does without, is one that it has."""
    peers = [method.key for method in METHODS if "gradients" in method.needs]
    return {re.sub(f"/({'|'.join(peers)})(?=/|$)", "/gradient_dot", key) for key in keys}


@pytest.mark.parametrize("name", ["workspace", "report"])
def test_every_metric_table_and_setting_of_a_panel_is_logged(reproduced, name):
    of = {"train": "train-000"}
    every = {job: logged(reproduced.root, of.get(job, job)) for job in ("train", "evaluate", "attribute", "report")}
    shown = panels(name)
    for part in SECTIONS:
        if part.job == "validate":
            continue  # below: it takes long
        for panel in shown[part.name]:
            keys = named(panel)
            assert keys or panel["viewType"] == "Run Comparer"
            jobs = [part.job] if part.job else list(every)
            assert any(keys <= every[job] for job in jobs), keys - set.union(*(every[job] for job in jobs))


def test_every_metric_of_the_validation_is_logged(validated):
    keys = set.union(*map(named, panels("workspace")["Validation"]))
    assert without_gradients(keys) <= logged(validated.root, "validate")


def test_curves_are_means_with_spread_by_ensemble():
    for panel in panels("workspace")["Members"]:
        config = panel["config"]
        assert (config["aggregate"], config["groupBy"]) == (True, "group")
        assert (config["groupAgg"], config["groupArea"]) == ("mean", "stddev")


def test_built_again_it_is_the_same_spec_and_no_two_panels_share_an_id():
    assert specs() == specs()
    ids = re.findall(r'"__id__": "(\w+)"', json.dumps(specs()["workspace"]))
    assert len(set(ids)) == len(ids) == sum(map(len, panels("workspace").values()))


@pytest.mark.parametrize("path", sorted(Path(__file__, "../../sweeps").resolve().glob("*.yaml")), ids=lambda p: p.stem)
def test_every_sweep_has_a_plot_of_what_it_sets_and_what_it_is_after(path):
    sweep = yaml.safe_load(path.read_text())
    keys = [key.partition(".") for key in sweep["parameters"]]
    wanted = {f"config:{group}.value{dot}{rest}" for group, dot, rest in keys} | {sweep["metric"]["name"]}
    assert any(wanted <= named(panel) for panel in panels("workspace")["Sweeps"])


def test_a_method_is_written_as_in_the_tables():
    for metric in set.union(*map(named, panels("workspace")["Validation"])):
        kind, *parts = metric.split("/")
        method_of({"agreement": parts[1], "lds": parts[-1]}[kind])


def test_without_a_server_it_is_two_files_that_say_the_same_each_time(ddattr, tmp_path, nobody):  # noqa: F811
    for _ in range(2):
        said = ddattr("dashboard", "experiment=digits_small")
        assert (said.status, said.err) == (0, "")
        folder = tmp_path / "runs" / "digits_small" / "dashboard"
        found = {path.stem: json.loads(path.read_text()) for path in folder.iterdir()}
        assert found == specs()
        assert all(part.name in said.out for part in SECTIONS)
    assert "Send it: ddattr dashboard tracking=online" in said.out
    assert not nobody


def test_pushed_twice_it_is_one_view_and_one_report(ddattr, server):  # noqa: F811
    server.views["theirs"] = {"id": "theirs", "name": "x", "displayName": "Ours", "type": "runs", "spec": "{}"}
    server.projects.add("another")
    addresses = []
    for _ in range(2):
        said = ddattr("dashboard", "experiment=digits_small", "tracking=online")
        assert (said.status, said.err) == (0, "")
        addresses.append(re.findall(r"dashboard: (http\S+)", said.out))
    assert addresses[0] == addresses[1]
    assert len(addresses[0]) == 2
    assert server.projects == {"another", "ddattr"}
    assert server.views.pop("theirs")["spec"] == "{}"
    views = {view["type"]: view for view in server.views.values()}
    assert len(views) == len(server.views) == 2
    assert {view["displayName"] for view in views.values()} == {TITLE}
    assert json.loads(views["project-view"]["spec"]) == specs()["workspace"]
    sent = json.loads(views["runs"]["spec"])
    grids = [block["metadata"] for block in sent["blocks"] if block["type"] == "panel-grid"]
    owners = [runs.pop("project") for grid in grids for runs in grid["runSets"]]
    assert [(owner["entityName"], owner["name"]) for owner in owners] == [("someone", "ddattr")] * len(SECTIONS)
    assert sent == specs()["report"]
    assert not server.unknown


@pytest.mark.parametrize("trouble", [403, *(pytest.param(t, marks=pytest.mark.slow) for t in (503, "dead", "mute"))])
def test_a_server_that_refuses_costs_one_line(ddattr, server, impatient, trouble):  # noqa: F811
    server.trouble = trouble
    refused(
        ddattr("dashboard", "experiment=digits_small", "tracking=online"), "W&B did not take it", "tracking=offline"
    )


def test_without_a_key_it_is_refused(ddattr, nobody):  # noqa: F811
    refused(ddattr("dashboard", "experiment=digits_small", "tracking=online"), "wandb login", "WANDB_API_KEY")


def test_without_the_library_one_line_says_how_to_get_it(ddattr, monkeypatch):
    for name in ("ddattr.tracking.dashboard", "ddattr.stages.dashboard"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.reports.v2", None)
    refused(
        ddattr("dashboard", "experiment=digits_small"), "wandb-workspaces is missing", "pip install -e '.[dashboard]'"
    )


def test_the_page_has_the_table_of_what_is_in_it():
    page = (Path(__file__).parent.parent / "sweeps" / "README.md").read_text()
    for line in outline():
        section, _, shown = line.strip().partition(": ")
        assert f"| {section} | {shown} |" in page
