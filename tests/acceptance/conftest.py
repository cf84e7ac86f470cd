"""Fixtures of the acceptance tests: projects of their own, a real chain, and a running Dagster."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.project import REPOSITORY, Project
from tests.support.s3 import running_s3
from trace_dagster.testing.anvil import Anvil, running_anvil
from trace_dagster.testing.demo_chain import ANVIL_ARGUMENTS, DemoChain, build_demo_chain


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Return an empty project."""
    return Project(tmp_path / "project")


@pytest.fixture(scope="module")
def new_project(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Project]:
    """Return a function that makes empty projects which the tests of a module share."""
    return lambda name: Project(tmp_path_factory.mktemp(name) / "project")


@dataclass(frozen=True)
class Node:
    """A real node and what is on its chain.

    Attributes:
        anvil: the node.
        chain: what was built on it.
    """

    anvil: Anvil
    chain: DemoChain


@pytest.fixture(scope="session")
def node() -> Iterator[Node]:
    """Run anvil with 60 blocks of every kind of transaction, chain id 31337."""
    environment = {"TRACE_ANVIL": str(REPOSITORY / "node_modules" / ".bin" / "anvil")}
    with running_anvil("--chain-id", "31337", *ANVIL_ARGUMENTS, environment=environment) as anvil:
        yield Node(anvil, build_demo_chain(anvil.url, blocks=60))


@pytest.fixture(scope="session")
def s3_environment() -> Iterator[Mapping[str, str]]:
    """Return the AWS_* variables of an S3 server."""
    with running_s3() as environment:
        yield environment
