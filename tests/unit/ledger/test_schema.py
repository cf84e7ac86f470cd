"""The ledger's statements and migrations, without a database."""

from pathlib import Path

from alembic.config import Config
from alembic.script import ScriptDirectory

from trace_dagster.ledger import schema
from trace_dagster.ledger.queries import QUERIES


def test_the_revision_in_the_code_is_the_newest_migration() -> None:
    """A process that skips alembic must not skip a migration."""
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [schema.REVISION]


def test_statements_are_read_by_name() -> None:
    """Each statement ends with its semicolon and holds no other's name."""
    assert {"claim", "renew", "release", "record"} <= set(QUERIES)
    for text in QUERIES.values():
        assert text.endswith(";")
        assert "-- name:" not in text
