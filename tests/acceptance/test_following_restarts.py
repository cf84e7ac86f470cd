"""A follower whose Dagster is killed: after a restart exactly one run is alive, and nothing is missing."""

from collections.abc import Callable

import psutil

from tests.acceptance.test_following import Followed, dag
from tests.support.followers import chain_rows, following, held_rows, services
from tests.support.project import Project
from tests.support.stack import Stack, running_stack
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.testing.anvil import running_anvil

NAME = "surviving"


def kill_daemon(stack: Stack) -> None:
    """Kill the daemon alone: ``dagster dev`` then ends by itself, without a word to the run."""
    children = psutil.Process(stack.process.pid).children(recursive=True)
    (daemon,) = (one for one in children if "daemon" in " ".join(one.cmdline()) and "run" in one.cmdline())
    daemon.kill()
    stack.process.wait(timeout=60)


def test_one_run_goes_on_after_a_restart(new_project: Callable[[str], Project]) -> None:
    """The chain goes on meanwhile; what was killed is ended, and another run takes its lease and cursor."""
    with running_anvil("--block-time", "1") as anvil:
        project = new_project("restarts")
        project.settings["TRACE_RPC_POOL_TIP_URL"] = anvil.url
        project.write("surviving.yaml", dag(NAME))
        with running_stack(project) as stack:
            cursor = Followed(stack, anvil).wait_beyond(NAME, 2)
            (before,) = Followed(stack, anvil).alive(NAME)
            kill_daemon(stack)
        with running_stack(project) as stack:
            followed = Followed(stack, anvil)
            followed.wait_beyond(NAME, followed.wait_beyond(NAME, cursor) + 1)
            (after,) = followed.alive(NAME)
            assert after != before
            assert stack.run(before)["status"] == "FAILURE"
        follower = following(NAME)
        with services(project.home, anvil.url) as opened:
            state = opened.ledger.follower(f"{NAME}/tip")
            assert state is not None
            assert state.cursor_block is not None
            assert state.cursor_block > cursor
            blocks = BlockRange(1, state.cursor_block)
            due = chain_rows(opened.settings.rpc_endpoint("tip"), follower.config.datasets, blocks)
            for dataset, table in follower.tables.items():
                assert held_rows(opened.ledger, table) == due[dataset], dataset
