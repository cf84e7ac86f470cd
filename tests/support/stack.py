"""Dagster's webserver, daemon and code server as real processes, and a client of their GraphQL."""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil

from tests.support.project import REPOSITORY, Project
from trace_dagster import metadata

_T = TypeVar("_T")

_LAUNCH = """
mutation Launch($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
    ... on InvalidSubsetError { message }
    ... on UnauthorizedError { message }
    ... on PartitionSetNotFoundError { message }
    ... on PartitionKeysNotFoundError { message }
  }
}
"""
_BACKFILL = """
query Backfill($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill {
      status
      error { message }
      runs(limit: 1000) { id status stepStats { stepKey startTime endTime } }
    }
    ... on PythonError { message }
  }
}
"""
_LOCATIONS = """
{ workspaceOrError { ... on Workspace { locationEntries {
  name loadStatus locationOrLoadError { __typename ... on PythonError { message } } } } } }
"""
_LAUNCH_RUN = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
    ... on RunConfigValidationInvalid { errors { message } }
  }
}
"""
_RUN = """
query Run($id: ID!) { runOrError(runId: $id) { ... on Run {
  status tags { key value } stepStats { stepKey status attempts { startTime } } } } }
"""
_EVENTS = """
query Events($id: ID!) { logsForRun(runId: $id, limit: 1000) { ... on EventConnection { events {
  __typename
  ... on MessageEvent { message }
  ... on EngineEvent { metadataEntries { label ... on TextMetadataEntry { text } } }
  ... on ExecutionStepFailureEvent { error { message } failureMetadata { description metadataEntries {
    label ... on TextMetadataEntry { text } } } }
} } } }
"""
_TERMINATE = """
mutation Terminate($id: String!) { terminateRun(runId: $id, terminatePolicy: SAFE_TERMINATE) {
  __typename ... on TerminateRunFailure { message } ... on PythonError { message } } }
"""
_FORCE = _TERMINATE.replace("SAFE_TERMINATE", "MARK_AS_CANCELED_IMMEDIATELY")
_UNFINISHED = """
{ runsOrError(filter: {statuses: [STARTED]}) { ... on Runs { results { id assetSelection { path } } } } }
"""
_MATERIALIZATIONS = """
query Asset($path: [String!]!) { assetOrError(assetKey: {path: $path}) { ... on Asset {
  assetMaterializations(limit: 100) { partition runId metadataEntries {
    label ... on BoolMetadataEntry { boolValue } } } } } }
"""
_STALE = """
query Stale($keys: [AssetKeyInput!]!, $partitions: [String!]!) { assetNodes(assetKeys: $keys) {
  staleStatusByPartition(partitions: $partitions) } }
"""
_REQUESTED = """
{ partitionBackfillsOrError(limit: 100) { ... on PartitionBackfills { results { id tags { key value } } } } }
"""
_TARGETED = """
query Targeted($id: String!, $key: AssetKeyInput!) { partitionBackfillOrError(backfillId: $id) {
  ... on PartitionBackfill { partitionsTargetedForAssetKey(assetKey: $key) { partitionKeys } } } }
"""
_SCHEDULE = """
query Schedule($selector: ScheduleSelector!) { scheduleOrError(scheduleSelector: $selector) {
  ... on Schedule { scheduleState { status ticks(limit: 20) { status runIds error { message } } } } } }
"""
_RUNS_WITH = """
query Runs($tags: [ExecutionTag!]!) { runsOrError(filter: {tags: $tags}, limit: 100) {
  ... on Runs { results { runId status } } } }
"""
_SKIPS = """
query Skips($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) {
  ... on Sensor { sensorState { ticks(limit: 20) { skipReason runIds error { message } } } } } }
"""
_LATEST = """
query Latest($path: [String!]!) { assetOrError(assetKey: {path: $path}) { ... on Asset {
  assetMaterializations(limit: 1) { metadataEntries { label
    ... on IntMetadataEntry { intValue } ... on FloatMetadataEntry { floatValue }
    ... on TextMetadataEntry { text } } } } } }
"""
_FINISHED = ("SUCCESS", "FAILURE", "CANCELED")


@dataclass(frozen=True)
class Materialized:
    """What Dagster shows of one materialization of one partition.

    Attributes:
        partition: its key.
        run_id: the run that told of it.
        kept: whether it was committed before (``trace/already_committed``); None for what commits nothing.
    """

    partition: str
    run_id: str
    kept: bool | None


@dataclass
class Stack:
    """A running ``dagster dev``.

    Attributes:
        url: the UI.
        project: whose DAGs it shows.
        log: what its processes wrote.
    """

    url: str
    project: Project
    log: Path
    process: "subprocess.Popen[bytes]"

    def query(self, text: str, variables: Mapping[str, Any] | None = None) -> Any:
        """Return the ``data`` of a GraphQL request."""
        body = json.dumps({"query": text, "variables": dict(variables or {})}).encode()
        request = urllib.request.Request(  # noqa: S310 (loopback)
            f"{self.url}/graphql", data=body, headers={"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as response:  # noqa: S310
            answer = json.load(response)
        if answer.get("errors"):
            raise AssertionError(f"GraphQL: {answer['errors']}")
        return answer["data"]

    def wait_for(self, what: str, look: Callable[[], _T | None], *, seconds: float = 240) -> _T:
        """Return the first value of ``look`` that is not None; on failure show the processes' log."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            value = look()
            if value is not None:
                return value
            if self.process.poll() is not None:
                raise AssertionError(f"dagster dev ended while waiting for {what}:\n{self.tail()}")
            time.sleep(0.25)
        raise AssertionError(f"{what} did not come within {seconds:g} s:\n{self.tail()}")

    def tail(self) -> str:
        """Return the end of the processes' log."""
        return self.log.read_text(errors="replace")[-8000:]

    def launch_backfill(self, assets: Sequence[Sequence[str]], partitions: Sequence[str]) -> str:
        """Ask for partitions as the UI's launch button does, and return the backfill's id."""
        params = {
            "assetSelection": [{"path": list(path)} for path in assets],
            "partitionNames": list(partitions),
            "fromFailure": False,
            "tags": [],
        }
        answer = self.query(_LAUNCH, {"params": params})["launchPartitionBackfill"]
        if answer["__typename"] != "LaunchBackfillSuccess":
            raise AssertionError(f"the backfill was refused: {answer}")
        return str(answer["backfillId"])

    def backfill(self, backfill_id: str) -> Mapping[str, Any]:
        """Return the backfill's ``status`` and ``runs`` so far."""
        backfill: Mapping[str, Any] = self.query(_BACKFILL, {"id": backfill_id})["partitionBackfillOrError"]
        return backfill

    def backfills_with(self, tag: str, value: str) -> list[str]:
        """Return the ids of the backfills that have a tag, newest first."""
        results = self.query(_REQUESTED)["partitionBackfillsOrError"]["results"]
        return [one["id"] for one in results if {"key": tag, "value": value} in one["tags"]]

    def targeted(self, backfill_id: str, path: Sequence[str]) -> list[str]:
        """Return the partitions of an asset that a backfill is to materialize."""
        answer = self.query(_TARGETED, {"id": backfill_id, "key": {"path": list(path)}})
        keys: list[str] = answer["partitionBackfillOrError"]["partitionsTargetedForAssetKey"]["partitionKeys"]
        return keys

    def finished_backfill(self, backfill_id: str, *, seconds: float = 240) -> Mapping[str, Any]:
        """Wait for the backfill's end and return its ``status`` and ``runs``."""

        def look() -> Mapping[str, Any] | None:
            backfill = self.backfill(backfill_id)
            return backfill if backfill.get("status", "REQUESTED") not in ("REQUESTED", "CANCELING") else None

        return self.wait_for(f"the end of backfill {backfill_id}", look, seconds=seconds)

    def launch_job(self, job: str, config: Mapping[str, Any], *, location: str = "trace") -> str:
        """Launch a job as the UI's launchpad does, and return the run's id."""
        selector = {
            "repositoryLocationName": location,
            "repositoryName": "__repository__",
            "jobName": job,
        }
        return self._launch_run({"selector": selector, "runConfigData": dict(config), "mode": "default"})

    def launch_partitions(
        self, assets: Sequence[Sequence[str]], first: str, last: str, *, location: str = "trace"
    ) -> str:
        """Launch one run of neighbouring partitions, without a backfill, and return its id."""
        selector = {
            "repositoryLocationName": location,
            "repositoryName": "__repository__",
            "jobName": "__ASSET_JOB",
            "assetSelection": [{"path": list(path)} for path in assets],
        }
        tags = [
            {"key": "dagster/asset_partition_range_start", "value": first},
            {"key": "dagster/asset_partition_range_end", "value": last},
        ]
        return self._launch_run(
            {
                "selector": selector,
                "runConfigData": {},
                "mode": "default",
                "executionMetadata": {"tags": tags},
            }
        )

    def _launch_run(self, params: Mapping[str, Any]) -> str:
        answer = self.query(_LAUNCH_RUN, {"params": params})["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            raise AssertionError(f"the run was refused: {answer}")
        return str(answer["run"]["runId"])

    def finished_run(self, run_id: str, *, seconds: float = 240) -> str:
        """Wait for the run's end and return its status."""

        def look() -> str | None:
            status = str(self.run(run_id)["status"])
            return status if status in _FINISHED else None

        return self.wait_for(f"the end of run {run_id}", look, seconds=seconds)

    def run(self, run_id: str) -> Mapping[str, Any]:
        """Return the run's ``status``, ``tags`` and ``stepStats`` so far."""
        run: Mapping[str, Any] = self.query(_RUN, {"id": run_id})["runOrError"]
        return run

    def events(self, run_id: str, kind: str) -> list[Mapping[str, Any]]:
        """Return the run's events of one GraphQL type, oldest first."""
        events = self.query(_EVENTS, {"id": run_id})["logsForRun"]["events"]
        return [event for event in events if event["__typename"] == kind]

    def runs_with(self, tag: str, value: str) -> dict[str, str]:
        """Return the status of every run that has a tag, by id, newest first."""
        runs = self.query(_RUNS_WITH, {"tags": [{"key": tag, "value": value}]})["runsOrError"]["results"]
        return {run["runId"]: run["status"] for run in runs}

    def skip_reasons(self, sensor: str, *, location: str = "trace") -> list[str]:
        """Return why a sensor's newest looks asked for nothing; a failed one gives its message."""
        selector = {
            "repositoryLocationName": location,
            "repositoryName": "__repository__",
            "sensorName": sensor,
        }
        ticks = self.query(_SKIPS, {"selector": selector})["sensorOrError"]["sensorState"]["ticks"]
        return [tick["skipReason"] or (tick["error"] or {}).get("message", "") for tick in ticks]

    def latest_metadata(self, path: Sequence[str]) -> dict[str, Any]:
        """Return numbers and texts of an asset's newest materialization; empty where there is none."""
        found = self.query(_LATEST, {"path": list(path)})["assetOrError"].get("assetMaterializations", [])
        entries = found[0]["metadataEntries"] if found else []
        return {
            entry["label"]: next(
                (entry[key] for key in ("intValue", "floatValue", "text") if key in entry), None
            )
            for entry in entries
        }

    def worker_of(self, run_id: str) -> int:
        """Return the process id of the run's worker."""
        pids = [
            entry["text"]
            for event in self.events(run_id, "EngineEvent")
            for entry in event["metadataEntries"]
            if entry["label"] == "pid"
        ]
        return int(pids[0])

    def wait_for_end_of(self, pid: int) -> None:
        """Wait until a process is no more, or is but a zombie."""

        def look() -> bool | None:
            try:
                return True if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE else None
            except psutil.NoSuchProcess:
                return True

        self.wait_for(f"the end of process {pid}", look)

    def started_run_of(self, path: Sequence[str]) -> str:
        """Return the run that Dagster takes for running and that is to materialize an asset."""
        runs = self.query(_UNFINISHED)["runsOrError"]["results"]
        (run_id,) = (run["id"] for run in runs if {"path": list(path)} in (run["assetSelection"] or ()))
        return str(run_id)

    def terminate(self, run_id: str, *, force: bool = False) -> None:
        """Ask for the run's end as the UI's button does; ``force`` is its *Force termination*."""
        answer = self.query(_FORCE if force else _TERMINATE, {"id": run_id})["terminateRun"]
        if answer["__typename"] != "TerminateRunSuccess":
            raise AssertionError(f"the run was not terminated: {answer}")

    def materializations(self, path: Sequence[str]) -> list[Materialized]:
        """Return what Dagster shows of an asset, newest first."""
        asset = self.query(_MATERIALIZATIONS, {"path": list(path)})["assetOrError"]
        return [_materialized(event) for event in asset.get("assetMaterializations", [])]

    def stale_statuses(self, path: Sequence[str], partitions: Sequence[str]) -> list[str]:
        """Return for each partition ``FRESH``, ``STALE`` or ``MISSING``, as the UI shows it."""
        variables = {"keys": [{"path": list(path)}], "partitions": list(partitions)}
        statuses: list[str] = self.query(_STALE, variables)["assetNodes"][0]["staleStatusByPartition"]
        return statuses

    def schedule(self, name: str, *, location: str = "trace") -> Mapping[str, Any]:
        """Return the schedule's ``status`` and newest ``ticks``."""
        selector = {
            "repositoryLocationName": location,
            "repositoryName": "__repository__",
            "scheduleName": name,
        }
        answer = self.query(_SCHEDULE, {"selector": selector})["scheduleOrError"]
        state: Mapping[str, Any] = answer["scheduleState"]
        return state


def _materialized(event: Mapping[str, Any]) -> Materialized:
    told = {entry["label"]: entry.get("boolValue") for entry in event["metadataEntries"]}
    return Materialized(event["partition"], event["runId"], told.get(metadata.ALREADY_COMMITTED))


@contextmanager
def running_stack(project: Project) -> Iterator[Stack]:
    """Start ``dagster dev`` on a free port, wait for its code location, and stop it at the end."""
    workspace = project.root / "workspace.yaml"
    workspace.write_text(
        "load_from:\n  - python_module: {module_name: trace_dagster.definitions, location_name: trace}\n"
    )
    port = _free_port()
    arguments = ["dagster", "dev", "-w", str(workspace), "-h", "127.0.0.1", "-p", str(port)]
    with _running(project, port, project.command(*arguments)) as stack:
        yield stack


@contextmanager
def running_development(project: Project) -> Iterator[Stack]:
    """Start what ``make dev`` starts, likewise, with the project's state and DAGs."""
    port = _free_port()
    with _running(project, port, [str(REPOSITORY / ".ci" / "dev"), str(port)]) as stack:
        yield stack


@contextmanager
def _running(project: Project, port: int, command: Sequence[str]) -> Iterator[Stack]:
    log = project.root / "dagster-dev.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=project.root,
            env=project.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    stack = Stack(f"http://127.0.0.1:{port}", project, log, process)
    try:
        stack.wait_for("the webserver", lambda: _loaded(stack))
        yield stack
    finally:
        _stop(process)


def _loaded(stack: Stack) -> bool | None:
    try:
        entries = stack.query(_LOCATIONS)["workspaceOrError"]["locationEntries"]
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None
    if not entries or any(entry["loadStatus"] != "LOADED" for entry in entries):
        return None
    for entry in entries:
        if entry["locationOrLoadError"]["__typename"] == "PythonError":
            raise AssertionError(entry["locationOrLoadError"]["message"])
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the process and everything it started: politely first, since they remove their own files."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=20)
