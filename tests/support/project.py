"""A folder with DAGs and state of its own, and the command-line programs run in it as a user runs them."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
MATERIALIZE = ("dagster", "asset", "materialize", "-m", "trace_dagster.definitions")
PROGRAMS = Path(sys.executable).parent

# What the caller's shell may hand on; everything else (TRACE_*, AWS_*, DAGSTER_*) must not disturb a test.
_KEPT = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "OPENBLAS_CORETYPE")


def clean_environment() -> dict[str, str]:
    """Return the caller's environment without any setting of this project, Dagster or AWS."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore", "NO_COLOR": "1", "COLUMNS": "200"}


@dataclass(frozen=True)
class Finished:
    """A program that has ended.

    Attributes:
        status: its exit status.
        output: what it wrote to standard output and error, interleaved.
    """

    status: int
    output: str


@dataclass
class Project:
    """DAGs, Dagster instance, ledger, store and staging below one folder.

    Attributes:
        root: the folder.
        settings: environment variables on top of the clean ones.
    """

    root: Path
    settings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the folders and Dagster's instance file."""
        for folder in (self.specs, self.dagster_home):
            folder.mkdir(parents=True)
        (self.dagster_home / "dagster.yaml").symlink_to(REPOSITORY / "dagster.yaml")

    @property
    def specs(self) -> Path:
        """Where the DAG YAML lies."""
        return self.root / "dag_specs"

    @property
    def dagster_home(self) -> Path:
        """Dagster's instance."""
        return self.root / "dagster"

    @property
    def home(self) -> Path:
        """``TRACE_HOME``."""
        return self.root / "trace"

    @property
    def store(self) -> Path:
        """The default object store."""
        return self.home / "store"

    @property
    def environment(self) -> dict[str, str]:
        """The environment of this project's processes."""
        return {
            **clean_environment(),
            "DAGSTER_HOME": str(self.dagster_home),
            "TRACE_HOME": str(self.home),
            "TRACE_DAG_SPECS": str(self.specs),
            **self.settings,
        }

    def write(self, name: str, text: str) -> Path:
        """Write a DAG file."""
        path = self.specs / name
        path.write_text(text)
        return path

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of one of the environment's programs (``trace``, ``dagster``, ``dg``)."""
        return [str(PROGRAMS / arguments[0]), *arguments[1:]]

    def run(self, *arguments: str, status: int | None = 0, timeout: float = 300) -> Finished:
        """Run a program to its end.

        Args:
            arguments: the program and its arguments.
            status: the exit status to insist on; None for any.
            timeout: seconds.
        """
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        if status is not None and done.returncode != status:
            raise AssertionError(
                f"{' '.join(arguments)} ended with {done.returncode}, not {status}:\n{done.stdout[-6000:]}"
            )
        return Finished(done.returncode, done.stdout)

    def materialize(
        self,
        select: str,
        *,
        partition: str | None = None,
        partition_range: str | None = None,
        config: Mapping[str, Any] | None = None,
        status: int | None = 0,
    ) -> Finished:
        """Run ``dagster asset materialize``; ``partition_range`` is ``first...last``."""
        arguments = [*MATERIALIZE, "--select", select]
        if partition is not None:
            arguments += ["--partition", partition]
        if partition_range is not None:
            arguments += ["--partition-range", partition_range]
        if config is not None:
            arguments += ["--config-json", json.dumps(config)]
        return self.run(*arguments, status=status)

    def objects(self) -> dict[str, bytes]:
        """Return everything in the default store: key to content."""
        return {
            str(path.relative_to(self.store)): path.read_bytes()
            for path in sorted(self.store.rglob("*"))
            if path.is_file()
        }

    def staged(self) -> list[Path]:
        """Return the files that lie in the staging area."""
        return [path for path in (self.home / "staging").rglob("*") if path.is_file()]
