"""DAG YAML for benchmarks."""


def ingest_dag(
    name: str, *, start_block: int, end_block: int, chunk_size: int, chain_id: int, datasets: list[str]
) -> str:
    """Return request -> split -> ingest with the stub engine, one partition in flight."""
    return f"""\
name: {name}
jobs:
  - name: ask
    activation: source
    runtime: dispatcher
    operator: range_request
    source: {{ kind: manual }}
    config: {{ start_block: {start_block}, end_block: {end_block} }}
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
    config: {{ chain_id: {chain_id}, datasets: [{", ".join(datasets)}], engine: stub }}
    scaling: {{ max_concurrency: 1 }}
    outputs: {len(datasets)}
    update_strategy: replace
"""
