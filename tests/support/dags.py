"""DAG YAML for acceptance tests."""

from collections.abc import Sequence

CHAIN_ID = 31337


def ingest_dag(
    name: str,
    *,
    end_block: int | None,
    chunk_size: int,
    engine: str,
    datasets: Sequence[str] = ("blocks", "transactions", "logs"),
    chain_id: int = CHAIN_ID,
    max_concurrency: int = 2,
    heartbeat_timeout_seconds: int = 60,
    max_attempts: int = 1,
    timeout_seconds: int = 300,
    rpc_pool: str = "test",
    schedule: str | None = None,
) -> str:
    """Return a DAG of three jobs, ask -> split -> ingest; without ``end_block`` ranges are asked for."""
    source = "{ kind: manual }" if schedule is None else f'{{ kind: cron, schedule: "{schedule}" }}'
    asked = "{}" if end_block is None else f"{{ start_block: 0, end_block: {end_block} }}"
    return f"""\
name: {name}
defaults:
  heartbeat_timeout_seconds: {heartbeat_timeout_seconds}
  max_attempts: {max_attempts}
jobs:
  - name: ask
    activation: source
    runtime: dispatcher
    operator: range_request
    source: {source}
    config: {asked}
    outputs: 1
  - name: split
    activation: reactive
    runtime: dispatcher
    operator: range_splitter
    execution_strategy: PerPartition
    inputs: [ {{ from: {{ job: ask, output: 0 }} }} ]
    config: {{ chunk_size: {chunk_size} }}
    outputs: 1
    update_strategy: replace
  - name: ingest
    activation: reactive
    runtime: dispatcher
    operator: cryo_ingest
    execution_strategy: PerPartition
    inputs: [ {{ from: {{ job: split, output: 0 }} }} ]
    config:
      chain_id: {chain_id}
      datasets: [{", ".join(datasets)}]
      rpc_pool: {rpc_pool}
      engine: {engine}
    scaling: {{ max_concurrency: {max_concurrency} }}
    outputs: {len(datasets)}
    update_strategy: replace
    timeout_seconds: {timeout_seconds}
publish:
  {name}_cold: {{ from: {{ job: ingest, output: 0 }}, storage: s3 }}
"""
