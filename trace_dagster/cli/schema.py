"""``trace schema``."""

import json

import click

from trace_dagster.chain.schema_page import schema_page
from trace_dagster.operators.registry import catalog
from trace_dagster.rpc.gateway.json_schema import pools_schema
from trace_dagster.spec.json_schema import dag_schema

__all__ = ["command"]


@click.command("schema")
@click.option("--tables", is_flag=True, help="Print the columns of all datasets instead, as Markdown.")
@click.option("--pools", is_flag=True, help="Print the JSON Schema of the gateway's rpc_pools.yaml instead.")
def command(*, tables: bool, pools: bool) -> None:
    """Print the JSON Schema of DAG YAML, with the config of every installed operator.

    Editors complete and check DAG files by it: start a file with
    `# yaml-language-server: $schema=<path to the schema>`.
    """
    if tables and pools:
        raise click.UsageError("--tables and --pools exclude each other")
    if pools:
        click.echo(json.dumps(pools_schema(), indent=2))
        return
    if tables:
        click.echo(schema_page(), nl=False)
        return
    click.echo(json.dumps(dag_schema(catalog()), indent=2))
