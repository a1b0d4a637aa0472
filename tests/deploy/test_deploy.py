"""What is deployed is valid for the tools that will read it, and speaks of what is there."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from prometheus_client import generate_latest

from streamseg.config import load
from streamseg.config.sections import MetricsConfig
from streamseg.observability.metrics import Metrics
from streamseg.observability.serving import serving
from tests.deployment import DASHBOARD, DEPLOY, RULES, metrics_in, queries
from tests.exploring import some
from tests.tools import tool

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")


def run(*command: str, stdin: bytes | None = None, cwd: Path = ROOT) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, cwd=cwd)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 0, said
    return said


def manifests(file: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all((DEPLOY / "kubernetes" / file).read_text(encoding="utf-8")) if one]


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


KNOWN = set(re.findall(r"^\| `(streamseg_\w+)`", DOCS, re.MULTILINE))


def test_prometheus_takes_configuration_and_rules() -> None:
    promtool = tool("promtool")
    assert "SUCCESS" in run(promtool, "check", "config", str(DEPLOY / "prometheus" / "prometheus.yml"))
    assert "19 rules found" in run(promtool, "check", "rules", str(RULES))


@pytest.mark.parametrize("name", some(["alerts_test.yml", "alerts_week_test.yml"]))
def test_alerts_fire_where_they_should_and_nowhere_else(name: str) -> None:
    assert "SUCCESS" in run(tool("promtool"), "test", "rules", name, cwd=DEPLOY / "prometheus")


def test_every_alert_has_a_test_that_makes_it_fire() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (DEPLOY / "prometheus").glob("*_test.yml")]
    fired = set(re.findall(r'exp_samples:|ALERTS\{alertname="(\w+)", alertstate="firing"', "\n".join(texts)))
    assert {alert["alert"] for alert in alerts()} <= fired


def test_the_metrics_pass_the_linter() -> None:
    assert run(tool("promtool"), "check", "metrics", stdin=generate_latest(Metrics("events", ["age"]).registry)) == ""


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_every_alert_says_what_it_means_and_leads_to_its_page(alert: dict[str, Any]) -> None:
    told = alert["annotations"]
    assert told["summary"]
    assert told["description"]
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    page, _, anchor = told["runbook_url"].partition("#")
    headings = re.findall(r"^## (\w+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert alert["alert"] in headings
    assert anchor == alert["alert"].lower()
    assert metrics_in(alert["expr"]) <= KNOWN | {"streamseg_share"}


def test_drift_never_wakes_anybody() -> None:
    severities = {alert["alert"]: alert["labels"]["severity"] for alert in alerts()}
    assert {severities[name] for name in severities if "Drift" in name} == {"info"}


def test_the_dashboard_asks_for_what_is_exported_and_answers_ten_questions() -> None:
    for title, query in queries():
        assert metrics_in(query) <= KNOWN | {"streamseg_share"}, title
        assert metrics_in(query), title
    rows = " ".join(panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row")
    assert set(map(int, re.findall(r"\b\d+\b", rows))) == set(range(1, 11))
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = {(x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
    assert len(cells) == sum(at["w"] * at["h"] for at in places), "panels lie over each other"
    assert all(at["x"] + at["w"] <= 24 for at in places)


def test_grafana_is_provisioned_with_the_data_source_that_the_dashboard_names() -> None:
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text(encoding="utf-8"))
    named = {panel["datasource"]["uid"] for panel in DASHBOARD["panels"] if "datasource" in panel}
    assert named == {source["datasources"][0]["uid"]}
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    mounts = [
        volume.split(":")[:2] for service in ("prometheus", "grafana") for volume in compose["services"][service]["volumes"]
    ]
    for source_path, target in mounts:
        assert not source_path.startswith("./") or (ROOT / source_path).is_dir()
        assert target.startswith("/")
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/streamseg.yml").read_text(encoding="utf-8"))
    assert ["./deploy/grafana/dashboards", provider["providers"][0]["options"]["path"]] in mounts


@pytest.mark.parametrize("manifest", manifests("streamseg.yaml"), ids=lambda one: one["kind"])
def test_kubernetes_takes_the_manifests(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.parametrize(("file", "kind"), [("monitoring.yaml", "ServiceMonitor"), ("scaling.yaml", "ScaledObject")])
def test_operators_take_their_resources(file: str, kind: str) -> None:
    crd = json.loads((Path(__file__).parent / "crds" / f"{kind}.json").read_text(encoding="utf-8"))
    (manifest,) = manifests(file)
    assert manifest["apiVersion"] == f"{crd['group']}/{crd['version']}"
    jsonschema.validate(manifest, crd["schema"])


def test_a_pod_s_name_is_the_worker_s_id_and_its_probes_are_pages_that_exist() -> None:
    (workload,) = [one for one in manifests("streamseg.yaml") if one["kind"] == "StatefulSet"]
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    (variable,) = [one for one in container["env"] if one["name"] == "STREAMSEG_WORKER__ID"]
    assert variable["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.name"
    assert {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe")} == {"/livez"}
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_the_configuration_in_the_config_map_is_one(tmp_path: Path) -> None:
    (found,) = [one for one in manifests("streamseg.yaml") if one["kind"] == "ConfigMap"]
    file = tmp_path / "streamseg.toml"
    file.write_text(found["data"]["streamseg.toml"])
    config = load(file, {}, {}).config
    assert (config.input.transport, config.metrics.address) == ("kafka", "0.0.0.0")


def test_each_scrape_and_probe_asks_by_a_name_that_is_answered() -> None:
    """A Host that is not allowed would fail the scrape, or kill the worker."""
    scrapes = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    environment = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]["streamseg"][
        "environment"
    ]
    compose = load(None, {}, environment).config.metrics
    hosts = [target for scrape in scrapes for one in scrape["static_configs"] for target in one["targets"]]
    assert hosts
    # The image's own health check, and a kubelet and a Prometheus in a cluster, which ask a pod by its address.
    (found,) = [one for one in manifests("streamseg.yaml") if one["kind"] == "ConfigMap"]
    pod = tomllib.loads(found["data"]["streamseg.toml"])["metrics"]
    asked = [(compose, hosts), (compose, ["127.0.0.1:9108"]), (MetricsConfig(**pod), ["10.1.2.3:9108", "[fd00::7]:9108"])]
    for metrics, names in asked:
        served = serving("shop", "w0", "events", [], metrics.address, 0, allowed_hosts=metrics.allowed_hosts)
        for name in names:
            with closing(HTTPConnection("127.0.0.1", served.port, timeout=5)) as connection:
                connection.request("GET", "/livez", headers={"Host": name})
                assert connection.getresponse().status in (200, 503), name
        served.close()


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "systemd" / "streamseg.service").read_text(encoding="utf-8")
    # The check wants the program to be there.
    unit = tmp_path / "streamseg.service"
    unit.write_text(text.replace("/opt/streamseg/bin/streamseg", "/bin/true"))
    assert "streamseg.service" not in run(tool("systemd-analyze"), "verify", "--man=no", str(unit))
