"""Which jobs a pool can serve, and the reasons where it cannot."""

import pytest

from trace_dagster.chain.datasets import DATASETS, NATIVE_DATASETS
from trace_dagster.rpc.gateway.config import Capabilities
from trace_dagster.rpc.gateway.doctor import EndpointReport, PoolReport
from trace_dagster.rpc.gateway.serving import JobNeeds, Verdict, judge, ways_of_cryo, ways_of_native

ALL = {"archive": True, "traces": True, "debug": True, "receipts": True, "log_range": None, "batch": 100}


def _endpoint(name: str = "one", problem: str | None = None, **lacks: str | None) -> EndpointReport:
    """An endpoint that has all but ``lacks``: a text is a denial, None is unknown."""
    found = {
        **ALL,
        **{key: (None if why is None or key == "log_range" else False) for key, why in lacks.items()},
    }
    return EndpointReport(
        name=name,
        shown="https://rpc.example/...",
        problem=problem,
        chain_id=1,
        head=20_000_000,
        capabilities=Capabilities.model_validate(found),
        denied={key: why for key, why in lacks.items() if why is not None},
        unknown={key: "HTTP 503" for key, why in lacks.items() if why is None},
    )


def _judged(*endpoints: EndpointReport, engine: str = "cryo", chain_id: int = 1, **needs: object) -> Verdict:
    ways = ways_of_cryo if engine == "cryo" else ways_of_native
    datasets = {dataset: ways(dataset) for dataset in needs.pop("datasets", ("blocks",))}  # type: ignore[attr-defined]
    job = JobNeeds("dag", "job", "ethereum", chain_id, datasets, **needs)  # type: ignore[arg-type]
    return judge(job, {"ethereum": PoolReport("ethereum", 1, endpoints)})


def test_pool_that_is_not_there() -> None:
    """A pool that is not configured is told with the name that was meant."""
    verdict = judge(JobNeeds("dag", "job", "etherium", 1), {"ethereum": PoolReport("ethereum", 1, ())})
    assert verdict.reasons == ("there is no pool 'etherium'; did you mean 'ethereum'?",)


def test_pool_of_another_chain() -> None:
    """A pool of another chain serves no job, whatever its endpoints can do."""
    (reason,) = _judged(_endpoint(), chain_id=10).reasons
    assert (
        reason == "pool ethereum is of chain 1, the job of chain 10; mend the job's rpc_pool or its chain_id"
    )


def test_pool_without_an_endpoint_that_works() -> None:
    """Where all endpoints fail, each is told with how."""
    (reason,) = _judged(_endpoint("one", "HTTP 401"), _endpoint("two", "no answer")).reasons
    assert reason == "no endpoint of pool ethereum can be used: one: HTTP 401; two: no answer"


@pytest.mark.parametrize("dataset", [*DATASETS])
def test_full_archive_serves_every_dataset_of_cryo(dataset: str) -> None:
    """An endpoint that has everything serves everything."""
    assert _judged(_endpoint(), datasets=(dataset,)).reasons == ()


def test_every_dataset_has_its_ways() -> None:
    """Datasets that need nothing special are those of blocks, transactions and what is known of no state."""
    plain = {dataset for dataset in DATASETS if not ways_of_cryo(dataset)}
    assert plain == {"blocks", "transactions"}
    assert {dataset for dataset in NATIVE_DATASETS if ways_of_native(dataset)} == {
        "calls",
        "contracts",
        "native_transfers",
        "traces",
    }


def test_traces_or_debug() -> None:
    """Native takes call frames where there is no trace_block; Cryo does not."""
    endpoint = _endpoint(traces="trace_block is not in the plan")
    assert _judged(endpoint, engine="native", datasets=("traces",)).reasons == ()
    (reason,) = _judged(endpoint, datasets=("blocks", "traces", "contracts")).reasons
    assert reason == (
        "traces, contracts needs state of old blocks and trace_*, which no endpoint of pool ethereum "
        "has: one has no trace_* (trace_block is not in the plan)"
    )
    endpoint = _endpoint(traces="no", debug="nor this")
    (reason,) = _judged(endpoint, engine="native", datasets=("traces",)).reasons
    assert "needs state of old blocks and trace_*, or state of old blocks and debug_trace*" in reason


def test_state_is_needed_where_old_blocks_are_traced() -> None:
    """A pruned node can trace what is near the head, and nothing older."""
    pruned = _endpoint(archive="missing trie node")
    assert _judged(pruned, engine="native", datasets=("traces",), follows=True).reasons == ()
    assert _judged(pruned, datasets=("traces",), first_block=19_999_990).reasons == ()
    assert _judged(pruned, datasets=("traces",), first_block=0).reasons != ()
    assert _judged(pruned, datasets=("traces",)).reasons != ()
    assert _judged(pruned, datasets=("balances",), first_block=0).reasons != ()
    assert _judged(pruned, datasets=("blocks", "transactions", "logs"), first_block=0).reasons == ()


def test_tracing_and_state_at_one_endpoint() -> None:
    """An archive without traces and traces without an archive are together no tracing archive."""
    archive, tracer = _endpoint("archive", traces="no"), _endpoint("tracer", archive="no")
    (reason,) = _judged(archive, tracer, datasets=("traces",)).reasons
    assert reason.endswith("archive has no trace_* (no); tracer has no state of old blocks (no)")
    assert _judged(archive, tracer, _endpoint("both"), datasets=("traces",)).reasons == ()


def test_what_could_not_be_found_out_is_no_yes() -> None:
    """An outage in the probe is told as such."""
    (reason,) = _judged(_endpoint(traces=None), datasets=("traces",)).reasons
    assert "may have trace_*, not found out: HTTP 503" in reason


def test_logs() -> None:
    """A pool without eth_getLogs has no logs for Cryo; one with short ranges is told as slow."""
    (reason,) = _judged(_endpoint(log_range="method not found"), datasets=("logs",)).reasons
    assert "one has no eth_getLogs (method not found)" in reason
    short = EndpointReport(
        "one", "", capabilities=Capabilities.model_validate({**ALL, "log_range": 10}), head=1
    )
    assert _judged(short, datasets=("logs",)).notes == (
        "logs: pool ethereum gives logs of at most 10 blocks at once",
    )
    assert _judged(short, _endpoint("two"), datasets=("logs",)).notes == ()


def test_notes() -> None:
    """What only makes a job slow, or endpoints that are out, keep no job from being served."""
    verdict = _judged(_endpoint(receipts="no"), _endpoint("two", "HTTP 401"), datasets=("transactions",))
    assert verdict.reasons == ()
    assert len(verdict.notes) == 2
    assert "eth_getBlockReceipts" in verdict.notes[0]
    assert verdict.notes[1] == "pool ethereum works without two"
