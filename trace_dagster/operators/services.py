"""What operators work with, opened on first use and closed with the run."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from types import TracebackType
from typing import Self

from trace_dagster.io_managers.append import AppendIOManager
from trace_dagster.io_managers.replace import ReplaceIOManager
from trace_dagster.ledger import Ledger, open_ledger
from trace_dagster.settings import Settings
from trace_dagster.store import ObjectStore, open_store

__all__ = ["Services"]


class Services:
    """Settings, object store and ledger of one process; a context manager.

    Attributes:
        settings: the environment's settings.
        environment: the environment variables that the object store's own client reads (``AWS_*``).
    """

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        self.settings = settings
        self.environment = environment
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    @cached_property
    def store(self) -> ObjectStore:
        """The object store at ``TRACE_OBJECT_STORE_URL``."""
        return open_store(self.settings.object_store_url, self.environment)

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger at ``TRACE_POSTGRES_URL``, or in the embedded Postgres."""
        return self._open.enter_context(open_ledger(self.settings))

    @cached_property
    def append(self) -> AppendIOManager:
        """Writes rows into hot tables, fenced by the ledger."""
        return AppendIOManager(self.ledger)

    @cached_property
    def replace(self) -> ReplaceIOManager:
        """Commits Parquet to the store, fenced by the ledger."""
        return ReplaceIOManager(self.store, self.ledger)
