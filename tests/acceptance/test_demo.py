"""``trace demo``, to its end and interrupted."""

import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.support.project import REPOSITORY, Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a project with the settings of a shell that has been used for other things."""
    made = Project(tmp_path / "project")
    made.settings |= {
        "TRACE_ANVIL": str(REPOSITORY / "node_modules" / ".bin" / "anvil"),
        "TRACE_HOME": str(tmp_path / "home"),
        "TRACE_POSTGRES_URL": "postgresql://nobody@203.0.113.1/none",
        "TRACE_OBJECT_STORE_URL": "s3://none/none",
        "TRACE_CRYO_ENGINE": "stub",
        "AWS_ENDPOINT_URL": "http://203.0.113.1",
    }
    return made


def test_the_demo_agrees_with_the_node_and_changes_nothing_twice(project: Project) -> None:
    """Five partitions of a real chain are committed and equal the node's; again, nothing is new."""
    done = project.run("trace", "demo")
    assert done.output.count("agrees") == 5
    assert "15 committed, 0 already committed" in done.output
    assert "0 committed, 15 already committed" in done.output
    assert "30 objects in the store, each with the same SHA-256" in done.output
    (costs,) = re.findall(r"RPC requests and credits, as their metadata shows them: (.*)\.\n", done.output)
    assert len(re.findall(r"\d+_\d+: [1-9]\d* and [1-9]\d*", costs)) == 5
    assert_nothing_is_left(Path(project.settings["TRACE_HOME"]))
    assert_nothing_listens(done.output)


def test_without_anvil_the_demo_says_that_its_rows_are_made_up(project: Project) -> None:
    """Where there is no node it falls back to the stub engine, and says so; asked for Cryo, it refuses."""
    del project.settings["TRACE_ANVIL"]
    project.settings["PATH"] = "/usr/bin:/bin"
    done = project.run("trace", "demo", "--blocks", "20", "--keep")
    assert "anvil is not installed" in done.output
    assert "made up" in done.output
    kept = list(
        Path(project.settings["TRACE_HOME"]).glob("demo-*/store/cryo/31337/blocks/*/*/_manifest.json")
    )
    assert len(kept) == 5
    refused = project.run("trace", "demo", "--engine", "cryo", status=1)
    assert "anvil is not installed" in refused.output


def test_an_interrupted_demo_leaves_nothing(project: Project) -> None:
    """A SIGTERM while Dagster works ends every process of the demo and removes its folder."""
    process = subprocess.Popen(
        project.command("trace", "demo"),
        cwd=project.root,
        env=project.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if "dagster asset materialize" in line:
            break
    os.kill(process.pid, signal.SIGTERM)
    said.append(process.stdout.read())
    assert process.wait(timeout=120) == 130, "".join(said)
    assert said[-1].endswith("stopped\n")
    assert_nothing_is_left(Path(project.settings["TRACE_HOME"]))
    assert_nothing_listens("".join(said))


def assert_nothing_listens(output: str) -> None:
    """Check that neither the node nor the gateway that a demo told of is there any more."""
    ports = re.findall(r"(?:\(anvil\)|gateway) at http://127\.0\.0\.1:(\d+)", output)
    assert len(ports) == 2, output
    for port in ports:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(port)), timeout=5)


def assert_nothing_is_left(home: Path) -> None:
    """Check that the demo's folder is gone, and that its processes end."""
    assert not home.exists()
    until = time.monotonic() + 60
    while left := [name for name in command_lines() if str(home) in name]:
        assert time.monotonic() < until, left
        time.sleep(0.1)


def command_lines() -> list[str]:
    """Return the command lines of all processes."""
    return [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
