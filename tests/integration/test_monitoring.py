"""The real thing: workers on a broker, a Prometheus that scrapes them, every query of every panel, and alerts that fire.

Time constants of the rules are shortened, nothing else. Alerts that compare with a week are tested by promtool.
"""

from __future__ import annotations

import http
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import yaml
from confluent_kafka import Producer

from tests.broker import free_port, new_name
from tests.deployment import DASHBOARD, RULES, metrics_in, queries
from tests.stores import create_input, names_of
from tests.tools import tool
from tests.waiting import until

# They share what is started once for them.
pytestmark = pytest.mark.xdist_group("monitoring")
ROOT = Path(__file__).parents[2]
EVENTS_A_SECOND, CUSTOMERS = 400, 3_000
PEOPLE = (np.random.default_rng(0).normal(size=(CUSTOMERS, 3)) * [1.0, 1.0, 0.3]).tolist()
QUIET_S, OLD_S = 15, 600.0
# How far rules look back, and for how long a condition must hold.
LOOK = {"1h": "20s", "10m": "10s", "5m": "10s", "7d": "60s", "1w": "30s", "15m": "2s", "30m": "2s", "1m": "2s", "2m": "2s"}
HOLD_S = 4


class Feed:
    """Events of the present, at a steady pace, as the test wants them."""

    def __init__(self, servers: str, topic: str) -> None:
        # What the test turns: events a second, factor of incomes, years on top of ages, share of broken events, by how many
        # groups everybody is another, standard deviations of noise; and from where on customers are new ones of the first.
        self.rate, self.income, self.older, self.bad, self.turn, self.noise = 0, 1.0, 0.0, 0.0, 0, 0.1
        self.newcomers: int | None = None
        self.producer, self._topic = Producer({"bootstrap.servers": servers, "linger.ms": 5}), topic
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        rng, due, last = np.random.default_rng(0), 0.0, time.monotonic()
        while not self._stop.wait(0.02):
            now = time.monotonic()
            due, last = due + self.rate * (now - last), now
            for _ in range(int(due)):
                self._send(self._customer(rng), rng)
            due -= int(due)
            self.producer.poll(0)

    def _customer(self, rng: np.random.Generator) -> int:
        # The others go on coming, or their segments would be given up.
        if self.newcomers is None or rng.random() < 0.4:
            return int(rng.integers(CUSTOMERS))
        self.newcomers += 3
        return self.newcomers

    def _send(self, customer: int, rng: np.random.Generator, at_ms: int = 0) -> None:
        value = b"{broken" if rng.random() < self.bad else self._event(customer, rng)
        key = str(customer).encode()
        self.producer.produce(self._topic, value, key, partition=customer % 2, timestamp=at_ms)

    def send_old(self, n: int, at_ms: int) -> None:
        """Events of now in records that were made long ago: a backlog."""
        rng = np.random.default_rng(1)
        for _ in range(n):
            self._send(int(rng.integers(CUSTOMERS)), rng, at_ms)
            self.producer.poll(0)

    def _event(self, customer: int, rng: np.random.Generator) -> bytes:
        group, person = (customer + self.turn) % 3, PEOPLE[customer % CUSTOMERS]
        noise = (self.noise * rng.normal(size=3)).tolist()
        fields = {
            "age": 20 + self.older + 15 * group + person[0] + 10 * noise[0],
            "income": 1e3 * self.income * (1 + group + person[1] / 10 + noise[1]),
            "purchases": group + person[2] + noise[2],
        }
        body = {"customer_id": str(customer), "event_time": time.time_ns() // 1_000_000, **fields}
        return msgspec.json.encode(body)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.producer.flush(10)


class Prometheus:
    """A real one, over one target."""

    def __init__(self, directory: Path, target: int) -> None:
        self.port = free_port()
        rules = RULES.read_text(encoding="utf-8")
        for slow, fast in LOOK.items():
            rules = rules.replace(f"[{slow}]", f"[{fast}]").replace(f"offset {slow}", f"offset {fast}")
        rules = re.sub(r"for: \d+[mh]\n", f"for: {HOLD_S}s\n", rules)
        (directory / "alerts.yml").write_text(rules)
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s", "scrape_timeout": "1s"},
            "rule_files": ["alerts.yml"],
            "scrape_configs": [{"job_name": "streamseg", "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}],
        }
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._log = (directory / "prometheus.log").open("wb")
        command = [
            tool("prometheus"), f"--config.file={directory / 'prometheus.yml'}", f"--storage.tsdb.path={directory / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]  # fmt: skip
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)

    def ask(self, query: str) -> list[dict[str, Any]]:
        """An instant query's result; nothing while Prometheus is not there yet."""
        url = f"http://127.0.0.1:{self.port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                found: list[dict[str, Any]] = json.load(response)["data"]["result"]
                return found
        except urllib.error.HTTPError as error:
            if error.code != http.HTTPStatus.SERVICE_UNAVAILABLE:
                raise AssertionError(f"{query}: {error.read().decode()}") from None
            return []
        except OSError:
            return []

    def firing(self) -> set[str]:
        return {found["metric"]["alertname"] for found in self.ask('ALERTS{alertstate="firing"}')}

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
        self._log.close()


class Workers:
    """`streamseg run --workers 2`, as a user starts it."""

    def __init__(self, servers: str, directory: Path) -> None:
        names = names_of(new_name("watched"))
        create_input(servers, names, 2)
        self.topic, self.port = names.input, free_port()
        (directory / "streamseg.toml").write_text(
            f'application = "{names.application}"\n'
            f'input = {{ transport = "kafka", topic = "{names.input}", batch_records = 500 }}\n'
            f'output = {{ topic = "{names.assignments}", catalog_topic = "{names.catalog}", '
            f'dead_letter_topic = "{names.dead_letters}" }}\n'
            f'kafka = {{ bootstrap_servers = "{servers}" }}\n'
            f'metrics = {{ port = {self.port}, drift_every = "1s" }}\n'
            "model = { warm_up = 300, segments = 3 }\n"
        )
        self.log = directory / "workers.log"
        command = [sys.executable, "-m", "streamseg", "run", "--workers", "2", "--log", "json"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=directory, stderr=log, env=os.environ | {"PYTHONPATH": str(ROOT)})

    def children(self) -> list[int]:
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Of the log."""
        found = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in found if line["event"] == event]

    def page(self, path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return int(error.code)
        except OSError:
            return 0

    def close(self) -> None:
        for child in self.children():
            os.kill(child, signal.SIGCONT)
        self.process.terminate()
        self.process.wait(timeout=60)


class Watched:
    def __init__(self, servers: str, workers: Workers, feed: Feed, prometheus: Prometheus) -> None:
        self.servers, self.workers, self.feed, self.prometheus = servers, workers, feed, prometheus

    def fence(self, transactional_id: str) -> None:
        """Somebody else takes the id, as a second worker of the same name would."""
        Producer({"bootstrap.servers": self.servers, "transactional.id": transactional_id}).init_transactions(30)


@contextmanager
def watched(servers: str, directory: Path) -> Iterator[Watched]:
    workers = Workers(servers, directory)
    try:
        feed = Feed(servers, workers.topic)
        try:
            prometheus = Prometheus(directory, workers.port)
            try:
                yield Watched(servers, workers, feed, prometheus)
            finally:
                prometheus.close()
        finally:
            feed.close()
    finally:
        workers.close()


@pytest.fixture(name="empty", scope="module")
def _empty(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Before the first event."""
    tool("prometheus")
    with watched(kafka, tmp_path_factory.mktemp("watched")) as there:
        until(lambda: there.workers.page("/readyz") == 200, "both workers are ready")
        yield there


@pytest.fixture(name="there", scope="module")
def _there(empty: Watched) -> Watched:
    empty.feed.rate = EVENTS_A_SECOND
    until(lambda: len(empty.prometheus.ask("streamseg_segment_info")) == 6, "three segments, told by two workers")
    return empty


def test_without_events_there_is_no_model_and_that_is_told(empty: Watched) -> None:
    until(lambda: "StreamsegNoModel" in empty.prometheus.firing(), "that there is no model is told")


def in_seconds(query: str) -> str:
    """A panel's query as Grafana would send it, with the test's time constants."""
    filled = query.replace("$job", ".+").replace("$__rate_interval", "20s")
    return re.sub(r"\[(1h|5m)\]", "[20s]", filled)


def test_every_query_of_every_panel_returns_data(there: Watched) -> None:
    assert len(queries()) > 30
    for title, query in queries():
        until(partial(there.prometheus.ask, in_seconds(query)), f"{title}: {query}", 60.0)


def test_every_metric_of_every_alert_is_there(there: Watched) -> None:
    for rule in (rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]):
        for name in metrics_in(rule["expr"]) - {"streamseg_share"}:
            found = there.prometheus.ask(f'{{__name__=~"{name}(_bucket)?"}}')
            assert found, f"{rule.get('alert')}: {name}"
    until(lambda: len(there.prometheus.ask("job_segment:streamseg_share:ratio")) == 3, "shares are recorded")


@pytest.mark.exhaustive
def test_a_quiet_stream_raises_no_alarm(there: Watched) -> None:
    """What belongs to the start has passed once nothing was even pending for as long as rates look back."""
    began = time.time()
    until(lambda: time.time() - began > 10.0, "rates look back on events", QUIET_S)
    alerts = partial(there.prometheus.ask, "max_over_time(ALERTS[10s])")
    until(lambda: not alerts(), lambda: f"what the start raised has gone: {alerts()}")
    began = time.time()
    until(lambda: time.time() - began > QUIET_S, "some quiet time has passed", QUIET_S + 30.0)
    assert there.prometheus.ask(f'max_over_time(ALERTS{{alertstate="firing"}}[{QUIET_S}s])') == []
    assert there.prometheus.ask("max(streamseg_consumer_lag_seconds)")[0]["value"][1] < "2"


def test_bad_input_is_told(there: Watched) -> None:
    there.feed.bad = 0.3
    until(lambda: {"StreamsegBadInput", "StreamsegVeryBadInput"} <= there.prometheus.firing(), "bad input is told")
    there.feed.bad = 0.0
    until(lambda: not there.prometheus.firing() & {"StreamsegBadInput", "StreamsegVeryBadInput"}, "it is over")


@pytest.mark.exhaustive
def test_an_old_backlog_is_told_as_stale_and_slow(there: Watched) -> None:
    wanted = {"StreamsegStaleTags", "StreamsegVeryStaleTags", "StreamsegSlow"}
    # One moment for all of them, so that what waits grows older however fast it is worked off.
    made = time.time() - OLD_S

    def told() -> bool:
        waiting = there.prometheus.ask("sum(streamseg_consumer_lag_records)")
        if waiting and float(waiting[0]["value"][1]) < 20_000:
            there.feed.send_old(30_000, round(1e3 * made))
        return wanted <= there.prometheus.firing()

    until(told, "an old backlog is told")
    oldest = float(there.prometheus.ask("max_over_time(streamseg_consumer_lag_seconds[10s])")[0]["value"][1])
    assert OLD_S <= oldest <= time.time() - made
    until(lambda: not there.prometheus.firing() & wanted, lambda: f"it is worked off: {there.prometheus.firing()}")


def test_an_input_that_a_transaction_holds_up_is_told_as_stuck(there: Watched) -> None:
    holding = Producer({"bootstrap.servers": there.servers, "transactional.id": new_name("somebody")})
    holding.init_transactions(30)
    holding.begin_transaction()
    for partition in range(2):
        holding.produce(there.workers.topic, b"{}", partition=partition)
    assert holding.flush(30) == 0
    until(lambda: "StreamsegStuck" in there.prometheus.firing(), "that nothing is tagged is told")
    holding.abort_transaction(30)
    until(lambda: "StreamsegStuck" not in there.prometheus.firing(), "the job goes on")


def test_drift_is_told_with_the_feature_that_drifts(there: Watched) -> None:
    there.feed.income = 1.6
    until(lambda: "StreamsegFeatureDrift" in there.prometheus.firing(), "drift is told")
    told = there.prometheus.ask('ALERTS{alertname="StreamsegFeatureDrift",alertstate="firing"}')
    assert {found["metric"]["feature"] for found in told} == {"income"}
    counted = there.prometheus.ask('sum(streamseg_drift_detections_total{detector="feature"})')
    assert float(counted[0]["value"][1]) >= 1
    logged = there.workers.lines("drift_detected")
    assert {line["feature"] for line in logged if line["detector"] == "feature"} == {"income"}


def tagged(there: Watched) -> float:
    return float(there.prometheus.ask('sum(streamseg_events_total{outcome="assigned"})')[0]["value"][1])


def test_centers_that_moved_far_are_told(there: Watched) -> None:
    """All as far as each other, so that features have the spread they had, and distances stay as they are."""
    # The metric is rescaled while customers take on the earlier drift, one by one: wait until each had another event.
    before = tagged(there)
    until(lambda: tagged(there) > before + 5 * CUSTOMERS, "each customer had another event")
    there.feed.older = 15.0
    until(lambda: "StreamsegCenterShift" in there.prometheus.firing(), "that centers moved is told")


def test_a_stopped_worker_is_told_and_comes_back(there: Watched) -> None:
    os.kill(there.workers.children()[0], signal.SIGSTOP)
    until(lambda: "StreamsegDown" in there.prometheus.firing(), "the stopped worker is told")
    down = there.prometheus.ask('ALERTS{alertname="StreamsegDown",alertstate="firing"}')
    assert {found["metric"]["worker"] for found in down} == {"0"}
    os.kill(there.workers.children()[0], signal.SIGCONT)
    until(lambda: "StreamsegDown" not in there.prometheus.firing(), "it is back")
    until(lambda: there.workers.page("/readyz") == 200, "it is ready")


def test_a_segment_that_grows_over_all_others_is_told(there: Watched) -> None:
    there.feed.newcomers, there.feed.rate = 3 * CUSTOMERS, 3 * EVENTS_A_SECOND
    until(lambda: "StreamsegShareDrift" in there.prometheus.firing(), "that a segment grows is told")
    until(lambda: "StreamsegDegenerate" in there.prometheus.firing(), "that it has nearly everybody is told")
    there.feed.newcomers, there.feed.rate = None, EVENTS_A_SECOND


def test_customers_who_all_become_others_are_told_as_churn(there: Watched) -> None:
    until(lambda: "StreamsegChurn" not in there.prometheus.firing(), "what came before has passed")
    there.feed.turn = 1
    until(lambda: "StreamsegChurn" in there.prometheus.firing(), "that customers move is told")


def test_segments_that_overlap_are_told(there: Watched) -> None:
    until(lambda: "StreamsegQuality" not in there.prometheus.firing(), "what came before has passed")
    there.feed.rate, there.feed.noise = 3 * EVENTS_A_SECOND, 1.0
    until(lambda: "StreamsegQuality" in there.prometheus.firing(), "that segments overlap is told")
    there.feed.noise = 0.1


def test_commits_that_somebody_fences_are_told(kafka: str, tmp_path: Path) -> None:
    """A job of its own: what it restores after each is short, so that enough of them come to nothing."""
    with watched(kafka, tmp_path) as there:

        def tagged() -> float:
            found = there.prometheus.ask("sum(streamseg_events_total)")
            return float(found[0]["value"][1]) if found else 0.0

        def told() -> bool:
            for line in started:
                there.fence(f"{line['application']}:{line['worker']}")
            return "StreamsegAborts" in there.prometheus.firing()

        there.feed.rate = EVENTS_A_SECOND // 4
        until(lambda: there.workers.page("/readyz") == 200 and tagged() > 0, "both workers work")
        started = there.workers.lines("started")
        assert len(started) == 2
        until(told, "that commits come to nothing is told")
        until(lambda: "StreamsegAborts" not in there.prometheus.firing(), "it is over")
        before = tagged()
        until(lambda: tagged() > before, "the job goes on")


def test_the_dashboard_has_a_panel_for_each_row() -> None:
    kinds = [panel["type"] for panel in DASHBOARD["panels"]]
    assert kinds.count("row") == 8
    assert len(kinds) - kinds.count("row") > 20
