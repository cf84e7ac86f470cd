"""The commands that people and deployments use: Dagster's own, dg's, and ``trace``'s on broken files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.dags import ingest_dag
from tests.support.project import REPOSITORY, Finished, Project

BROKEN = "name: broken\njobs:\n  - name: a\n    operator: cryo_ingst\n"

# Refuses every socket but Unix ones, and every program.
_OFFLINE = """
import dagster  # asks the program `file` about this machine
import socket, subprocess
class Refused(socket.socket):
    def __init__(self, family=-1, *arguments, **options):
        if family not in (-1, socket.AF_UNIX):
            raise SystemExit(f"a socket of family {family} was opened")
        super().__init__(family, *arguments, **options)
    def connect(self, *_):
        raise SystemExit("a connection was made")
def refuse(*arguments, **_):
    raise SystemExit(f"a program was started: {arguments}")
socket.socket, subprocess.Popen.__init__ = Refused, refuse
from trace_dagster.definitions import defs
print(sorted(key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()))
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return a project with one good DAG and one broken file."""
    made = Project(tmp_path / "project")
    made.write("good.yaml", ingest_dag("good", end_block=29, chunk_size=10, engine="stub"))
    made.write("broken.yaml", BROKEN)
    return made


def in_folder(folder: Path, project: Project, *arguments: str) -> Finished:
    """Run dg in a folder that is a dg project, with the settings of ``project``; give what it prints."""
    caches = {name: str(project.root / "cache") for name in ("XDG_CACHE_HOME", "DG_CLI_CACHE_DIR")}
    done = subprocess.run(
        project.command(*arguments),
        cwd=folder,
        env={**project.environment, **caches, "VIRTUAL_ENV": sys.prefix},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Finished(done.returncode, done.stdout)


def test_definitions_validate(project: Project) -> None:
    """``dagster definitions validate`` accepts the location, and names the errors of a broken file."""
    done = project.run("dagster", "definitions", "validate", "-m", "trace_dagster.definitions")
    assert "broken.yaml:4:15" in done.output
    assert "cryo_ingest" in done.output


def test_dg_lists_definitions_and_the_component(project: Project) -> None:
    """``dg list defs`` shows the assets, and ``dg list components`` the component."""
    listed = json.loads(in_folder(REPOSITORY, project, "dg", "list", "defs", "--json").output)
    keys = {asset["asset_key"] for asset in listed["assets"]}
    assert {"good/ask/range", "good/split/ranges", "good/ingest/blocks", "invalid_dags/broken"} <= keys
    components = in_folder(REPOSITORY, project, "dg", "list", "components", "--json").output
    assert "trace_dagster.components.TraceDagsComponent" in components


def test_a_dg_project_loads_a_folder_of_dags(project: Project) -> None:
    """Five lines of ``defs.yaml`` in somebody's own dg project make assets of the DAG beside them."""
    files = {
        "pyproject.toml": '[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "mine"\n',
        "mine/__init__.py": "",
        "mine/definitions.py": (
            "import pathlib\nimport dagster as dg\n"
            "defs = dg.load_from_defs_folder(project_root=pathlib.Path(__file__).parents[1])\n"
        ),
        "mine/defs/__init__.py": "",
        "mine/defs/chain/defs.yaml": (
            "type: trace_dagster.components.TraceDagsComponent\n\nattributes:\n  path: dags\n"
        ),
        "mine/defs/chain/dags/own.yaml": ingest_dag("own", end_block=9, chunk_size=10, engine="stub"),
    }
    root = project.root / "own"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    project.settings["PYTHONPATH"] = str(root)
    listed = json.loads(in_folder(root, project, "dg", "list", "defs", "--json").output)
    assert {"own/ask/range", "own/ingest/blocks"} <= {asset["asset_key"] for asset in listed["assets"]}


def test_importing_definitions_needs_no_network(project: Project) -> None:
    """Nothing is connected to and no program started, although a database, a gateway and a bucket are set."""
    project.settings |= {
        "TRACE_POSTGRES_URL": "postgresql://nobody:secret@203.0.113.1/none",
        "TRACE_RPC_GATEWAY_URL": "https://203.0.113.1",
        "TRACE_OBJECT_STORE_URL": "s3://none/none",
    }
    done = project.run("python", "-c", _OFFLINE)
    assert "good/ingest/logs" in done.output


def test_a_partition_and_a_range_of_partitions(project: Project) -> None:
    """``dagster asset materialize`` takes ``--partition`` and ``--partition-range``."""
    project.materialize("good/ingest/logs", partition="0_9")
    assert ranges(project, "logs") == ["0_9"]
    project.materialize('key:"good/ingest/*"', partition_range="10_19...20_29")
    assert ranges(project, "blocks") == ["10_19", "20_29"]
    assert ranges(project, "logs") == ["0_9", "10_19", "20_29"]
    project.materialize('key:"good/ask/*"', partition="0_29")
    project.materialize('key:"good/split/*"', partition_range="0_9...20_29")


def ranges(project: Project, dataset: str) -> list[str]:
    """Return the block ranges that are committed."""
    return sorted(
        path.split("/")[3]
        for path in project.objects()
        if path.endswith("_manifest.json") and path.split("/")[2] == dataset
    )


def test_trace_validate_and_plan(project: Project) -> None:
    """``trace validate`` prints each error and exits 2; ``trace plan`` shows partitions and blocks."""
    done = project.run("trace", "validate", str(project.specs), status=2)
    assert "broken.yaml:4:15" in done.output
    assert "Traceback" not in done.output
    plan = project.run("trace", "plan", str(project.specs / "good.yaml"))
    assert "good/ingest" in plan.output
    assert "30" in plan.output


def test_dg_launch(project: Project) -> None:
    """``dg launch --assets`` materializes a partition too."""
    in_folder(REPOSITORY, project, "dg", "launch", "--assets", "good/ingest/blocks", "--partition", "20_29")
    assert ranges(project, "blocks") == ["20_29"]
