"""The service seen from outside: its processes' metrics and logs, and what is made of them.

Every metric and label that a dashboard or a rule names is one that the running service exposes.
"""

import asyncio
import json
import re
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from app.bootstrap import open_worker_services
from app.infra.metrics_server import serving_metrics
from app.infra.telemetry import exposition
from app.ledger.instruments import Instruments
from app.settings import Settings
from app.workers.loops import work_always
from tests.cluster import free_port
from tests.conftest import eventually, serving
from tests.failure.conftest import Processes, processes  # noqa: F401  a fixture

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "deploy/prometheus/alerts.yml"
DASHBOARDS = sorted((ROOT / "deploy/grafana/dashboards").glob("*.json"))
RUNBOOKS = ROOT / "docs/runbooks.md"
METRIC = re.compile(r"(subbalance_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")
LOOP_METRIC = "subbalance_loop_success_timestamp_seconds"
LOOPS = {"settlement", "recovery", "reaper", "expiry"}
# Prometheus adds these to whatever it scrapes.
ADDED = {"instance", "job"}
Exposed = dict[str, list[dict[str, str]]]


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> list[str]:
    found = [rule["expr"] for rule in rules()]
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            found += [target["expr"] for target in panel["targets"]]
    return found


def wrong_with(expression: str, exposed: Exposed) -> list[str]:
    """What an expression names that is not exposed: metrics, labels, values of labels."""
    wrong, known = [], set(ADDED)
    for name, matchers in METRIC.findall(expression):
        samples = exposed.get(name, [])
        if not samples:
            wrong.append(name)
        known |= {label for sample in samples for label in sample}
        for label, operator, value in MATCHER.findall(matchers):
            values = {sample[label] for sample in samples if label in sample}
            for word in value.split("|") if "~" in operator else [re.escape(value)]:
                # A status that nobody was answered has no sample.
                is_there = any(re.fullmatch(word, each) for each in values)
                if not values or not (is_there or label == "status"):
                    wrong.append(f"{name}{{{label}={value}}}")
    for group in GROUPING.findall(expression):
        wrong += [label for label in re.split(r"[\s,]+", group) if label and label not in known]
    return wrong


@asynccontextmanager
async def busy_service(settings: Settings, redis_client: Any) -> AsyncIterator[list[str]]:
    """Run the API and the worker until each has something to tell; yields where they tell it."""
    quick = msgspec.structs.replace(settings.reliability, consistency_interval_ms=200)
    quick = msgspec.structs.replace(quick, auto_recovery=False)
    settings = msgspec.structs.replace(settings, reliability=quick)
    instruments = Instruments("worker", metrics=True)
    port = free_port()

    async def metrics() -> bytes:
        return exposition(instruments.collect())

    async with (
        serving(settings) as api,
        open_worker_services(settings, instruments) as worker,
        serving_metrics("127.0.0.1", port, metrics),
    ):
        await api.post("/test/accounts", json={"accounts": [{"account_id": "ACC"}]})
        for amount, kind in (("10", "credit"), ("99", "debit"), ("1", "debit")):
            body = {"account_id": "ACC", "amount": amount, "type": kind}
            await api.post("/api/v1/transaction", json=body)
        for key in redis_client.scan_iter("subbalance:*:account:ACC"):
            redis_client.hset(key, "available", "1")
        work = asyncio.create_task(work_always(worker))
        urls = [f"{api.base_url}/metrics", f"http://127.0.0.1:{port}/metrics"]
        try:

            async def has_all() -> bool:
                found = await exposed_at(urls)
                return bool(
                    found.get("subbalance_mismatches_found_total")
                    and found.get("subbalance_verification_mismatches")
                    and found.get("subbalance_settled_total")
                    and found.get("subbalance_reaped_total")
                    and {each["loop"] for each in found.get(LOOP_METRIC, [])} >= LOOPS
                )

            await eventually(has_all, 30)
            yield urls
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


async def exposed_at(urls: list[str]) -> Exposed:
    found: Exposed = defaultdict(list)
    async with httpx.AsyncClient() as client:
        for url in urls:
            text = (await client.get(url)).text
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    found[sample.name].append(dict(sample.labels))
    return dict(found)


async def test_dashboards_and_rules_name_only_what_the_service_exposes(
    settings: Settings, redis_client: Any
) -> None:
    async with busy_service(settings, redis_client) as urls:
        exposed = await exposed_at(urls)
    assert len(DASHBOARDS) >= 2
    assert {expression: wrong_with(expression, exposed) for expression in expressions()} == {
        expression: [] for expression in expressions()
    }


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("sum(subbalance_nothing)", ["subbalance_nothing"]),
        ('subbalance_mode{word="redis"} == 1', ["subbalance_mode{word=redis}"]),
        ('subbalance_mode{mode="both"} == 1', ["subbalance_mode{mode=both}"]),
        ('subbalance_mode{mode=~"redis|both"} == 1', ["subbalance_mode{mode=redis|both}"]),
        ("sum by (part) (subbalance_mode)", ["part"]),
        ('sum by (mode) (subbalance_mode{mode="redis"})', []),
    ],
)
def test_an_expression_that_names_anything_else_is_noticed(
    expression: str, wrong: list[str]
) -> None:
    assert wrong_with(expression, {"subbalance_mode": [{"mode": "redis"}]}) == wrong


def test_each_rule_has_a_section_of_the_runbooks() -> None:
    headings = re.findall(r"^## (\w+)$", RUNBOOKS.read_text(), re.MULTILINE)
    names = [rule["alert"] for rule in rules()]
    assert names
    assert headings == names
    for rule in rules():
        assert rule["annotations"]["runbook"] == f"docs/runbooks.md#{rule['alert'].lower()}"


async def test_processes_show_their_metrics_and_write_their_logs(
    processes: Processes,  # noqa: F811
    tmp_path: Path,
) -> None:
    folder, port = tmp_path / "logs", free_port()
    more = {"SUBBALANCE_LOG_FOLDER": str(folder), "ENABLE_TEST_MODE": "true"}
    worker = processes.start("app.workers", SUBBALANCE_WORKER_METRICS_PORT=str(port), **more)
    async with processes.api(**more) as (_, api), httpx.AsyncClient() as client:
        await api.post("/test/accounts", json={"accounts": [{"account_id": "ACC"}]})
        body = {
            "account_id": "ACC",
            "amount": "87.65",
            "type": "debit",
            "metadata": {"name": "Ada"},
        }
        refused = await api.post("/api/v1/transaction", json=body)
        assert refused.status_code == 422

        async def shows() -> bool:
            assert worker.process.poll() is None, worker.log.read_text()
            try:
                text = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
            except httpx.TransportError:
                return False
            return 'loop_runs_total{loop="settlement",result="ok"}' in text

        await eventually(shows, 20)
        assert (await client.get(f"http://127.0.0.1:{port}/other")).status_code == 404
    told = (folder / "app.log").read_text()
    lines = [json.loads(line) for line in told.splitlines()]
    (line,) = [line for line in lines if line["message"] == "request refused"]
    assert line["request_id"] == refused.headers["x-request-id"]
    assert (line["code"], line["status"]) == ("insufficient_available", 422)
    assert (line["mode"], line["epoch"]) == ("redis", 1)
    assert line["endpoint"] == "POST /api/v1/transaction"
    assert "Ada" not in told
    assert "87.65" not in told
    assert "leads" in (folder / "worker.log").read_text()
