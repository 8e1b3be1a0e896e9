"""Alert rules, dashboard and unit file: they parse, and name what the server exports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import skip_or_fail
from llamaherd import BatchEngine, FinishReason, SamplingParams
from llamaherd.server.observability.metrics import ServerMetrics
from prometheus_client.parser import text_string_to_metric_families

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
TESTS = DEPLOY / "prometheus" / "rules_test.yml"
DASHBOARD = DEPLOY / "grafana" / "dashboard.json"
UNIT = DEPLOY / "systemd" / "llamaherd.service"
METRIC = re.compile(r"(?<![\w:$])((?:llamaherd|process)_\w+)(?:\{([^}]*)\})?")
TARGET_LABELS = {"job", "instance"}  # Prometheus adds them


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        skip_or_fail(f"{name} is not installed")
    return str(found)


def run(*command: str | Path) -> str:
    done = subprocess.run(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def rules() -> list[dict[str, Any]]:
    return [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def dashboard() -> dict[str, Any]:
    return json.loads(DASHBOARD.read_text())


def panels() -> list[dict[str, Any]]:
    board = dashboard()["panels"]
    return board + [inner for panel in board for inner in panel.get("panels", [])]


def dashboard_expressions() -> list[str]:
    found = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    variables = [variable["query"] for variable in dashboard()["templating"]["list"]]
    asked = [query["query"] for query in variables if isinstance(query, dict)]
    return found + [re.sub(r"^label_values\((.*), \w+\)$", r"\1", query) for query in asked]


@pytest.fixture(scope="module")
def exported(engine: BatchEngine) -> dict[str, set[str]]:
    """Names that a server exports, each with its labels."""
    metrics = ServerMetrics(lambda: {"m": SimpleNamespace(engine=engine, generates=True)})
    result = engine.submit("Once", SamplingParams(max_tokens=3)).result()
    metrics.prompt("m", 1, 0)
    metrics.ended("m", result.timing, 3, FinishReason.LENGTH)
    metrics.token_gap("m", 0.01)
    metrics.answered("/v1/completions", 200)
    metrics.waits(0, 1)
    names: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            names.setdefault(sample.name, set()).update(sample.labels)
    return names


def unknown(expressions: list[str], exported: dict[str, set[str]]) -> Iterator[str]:
    """What of some expressions no server exports."""
    for expression in expressions:
        for name, matchers in METRIC.findall(expression):
            labels = set(re.findall(r"(\w+)\s*[=!]~?", matchers or ""))
            missing = labels - exported.get(name, set()) - TARGET_LABELS
            if name not in exported or missing:
                yield f"{name} {missing or ''} in {expression}"


def test_the_rules_pass_promtool() -> None:
    run(program("promtool"), "check", "rules", RULES)
    run(program("promtool"), "test", "rules", TESTS)


def test_every_alert_says_what_is_wrong_and_what_to_do() -> None:
    for alert in alerts():
        texts = alert["annotations"]
        assert set(texts) == {"summary", "description", "action"}, alert["alert"]
        assert "$value" in texts["description"], alert["alert"]
        assert alert["labels"]["severity"] in ("info", "warning", "critical")


def test_every_alert_is_seen_to_fire() -> None:
    tests = yaml.safe_load(TESTS.read_text())["tests"]
    fired = {
        case["alertname"]
        for test in tests
        for case in test.get("alert_rule_test", [])
        if case.get("exp_alerts")
    }
    for test in tests:
        for case in test.get("promql_expr_test", []):
            for sample in case.get("exp_samples", []):
                fired.update(re.findall(r'alertname="(\w+)"', sample["labels"]))
    assert fired == {alert["alert"] for alert in alerts()}


def test_rules_and_dashboard_name_what_the_server_exports(exported: dict[str, set[str]]) -> None:
    expressions = [rule["expr"] for rule in rules()]
    assert list(unknown(expressions, exported)) == []
    assert len(dashboard_expressions()) > 40
    assert list(unknown(dashboard_expressions(), exported)) == []
    tested = TESTS.read_text()
    assert {name for name, _ in METRIC.findall(tested)} - set(exported) == set()
    assert list(unknown(["llamaherd_engine_ok{part='x'}", "llamaherd_none"], exported)) != []


def test_rules_use_only_percentiles_that_they_record() -> None:
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    used = set(re.findall(r"llamaherd:[\w:]+", "\n".join(rule["expr"] for rule in rules())))
    assert used <= recorded


def test_the_dashboards_expressions_parse(tmp_path: Path) -> None:
    groups = []
    for i, expression in enumerate(dashboard_expressions()):
        plain = expression.replace("$__rate_interval", "5m")
        for variable in dashboard()["templating"]["list"]:
            plain = plain.replace("$" + variable["name"], ".*")
        assert "$" not in plain, expression
        groups.append({"record": f"dashboard:expression:{i}", "expr": plain})
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": groups}]}))
    assert f"{len(groups)} rules found" in run(program("promtool"), "check", "rules", file)


def test_the_dashboards_panels_do_not_overlap() -> None:
    top = dashboard()["panels"]
    assert len({panel["id"] for panel in panels()}) == len(panels())
    for panel in top:
        place = panel["gridPos"]
        assert place["x"] >= 0, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
    for a, b in combinations(top, 2):
        p, q = a["gridPos"], b["gridPos"]
        beside = p["x"] + p["w"] <= q["x"] or q["x"] + q["w"] <= p["x"]
        above = p["y"] + p["h"] <= q["y"] or q["y"] + q["h"] <= p["y"]
        assert beside or above, f"{a['title']} and {b['title']}"


def test_the_dashboard_takes_source_and_model_from_variables() -> None:
    board = dashboard()
    assert board["schemaVersion"] >= 39
    kinds = {variable["name"]: variable["type"] for variable in board["templating"]["list"]}
    assert kinds["datasource"] == "datasource"
    assert kinds["model_name"] == "query"
    for panel in panels():
        if panel["type"] == "row":
            continue
        assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
        assert panel["targets"], panel["title"]


def test_the_unit_passes_systemds_own_check(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("llamaherd")
    command = str(script if script.exists() else shutil.which("llamaherd"))
    file = tmp_path / "llamaherd.service"
    file.write_text(UNIT.read_text().replace("/opt/llamaherd/bin/llamaherd", command))
    systemd = shutil.which("systemd-analyze")
    if systemd is None:
        pytest.skip("systemd-analyze is not installed")
    assert run(systemd, "verify", "--man=no", file) == ""


def test_the_unit_waits_for_the_drain_and_names_options_that_exist() -> None:
    text = UNIT.read_text()
    command = re.search(r"^ExecStart=\S+ serve (.*)$", text, re.MULTILINE)
    assert command is not None
    stop = re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
    drain = re.search(r"--drain-timeout (\d+)", command[1])
    assert stop is not None
    assert drain is not None
    # Running requests have the drain; uvicorn's connections as long again and 5 s, twice.
    assert int(stop[1]) > 2 * int(drain[1]) + 10
    shown = run(sys.executable, "-m", "llamaherd.cli", "serve", "--help")
    for option in re.findall(r"--[a-z-]+", command[1]):
        assert option in shown, option
