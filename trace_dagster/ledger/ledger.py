"""The ledger: who works on what, what is committed, and under which names it is published."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Final, Self
from urllib.parse import urlsplit
from uuid import UUID

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from psycopg.errors import LockNotAvailable

from trace_dagster.chain.ranges import BlockRange
from trace_dagster.errors import ConfigurationError, TraceError
from trace_dagster.ledger.attempts import Attempt
from trace_dagster.ledger.connections import Connections, Database
from trace_dagster.ledger.consuming import ConsumerState
from trace_dagster.ledger.following import FollowerState, Invalidation, OrphanedBlock, Reorg
from trace_dagster.ledger.queries import QUERIES
from trace_dagster.ledger.records import AttemptRecord, CommittedDataset, PublishedOutput
from trace_dagster.ledger.schema import ensure_schema
from trace_dagster.ledger.server import EmbeddedPostgres
from trace_dagster.settings import Settings
from trace_dagster.urls import redact

__all__ = ["Ledger", "open_ledger"]

_MAX_ERROR_CHARACTERS: Final = 500


class Ledger:
    """State in Postgres, shared by every process of an installation. Safe to use from several threads."""

    def __init__(self, connections: Connections, resources: ExitStack) -> None:
        self._connections = connections
        self._resources = resources

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, and let the embedded server go."""
        self._resources.close()

    @property
    def conninfo(self) -> str:
        """The connection string or URL, for other tables in the same database. It holds the password."""
        return self._connections.conninfo()

    @contextmanager
    def attempt(
        self,
        task_key: str,
        *,
        run_id: str,
        lease_seconds: float,
        wait_until: float,
        check: Callable[[], None] = lambda: None,
    ) -> Iterator[Attempt]:
        """Hold a task for the length of the block.

        Waits while another live attempt holds it, takes over one whose lease has expired, keeps the lease
        alive by a heartbeat, and records how the block ended.

        Args:
            task_key: what to hold.
            run_id: the Dagster run.
            lease_seconds: how long others wait for a heartbeat.
            wait_until: ``time.monotonic()`` value after which to stop waiting.
            check: called at each look while waiting; raises to give up earlier.

        Raises:
            DeadlineExceeded: another attempt held the task until then.
            LedgerUnavailable: Postgres cannot be reached, or refuses.
        """
        attempt = Attempt(self._connections, task_key, run_id, lease_seconds).claim(wait_until, check)
        error: BaseException | None = None
        try:
            yield attempt
        except BaseException as raised:
            error = raised
            raise
        finally:
            attempt.release(error)

    def holder(self, task_key: str) -> str | None:
        """Return the run whose attempt holds a task; None where nobody does."""
        rows = self._connections.rows("holder", {"task_key": task_key, "token": str(UUID(int=0))})
        return str(rows[0]["run_id"]) if rows and rows[0]["live"] else None

    def attempts_of(self, task_key: str) -> tuple[AttemptRecord, ...]:
        """Return every attempt of a task, oldest first."""
        return tuple(
            AttemptRecord(**row) for row in self._connections.rows("attempts_of", {"task_key": task_key})
        )

    def current(self, storage_root: str, chain_id: int, dataset: str) -> Mapping[str, int]:
        """Return dataset version to sequence; of two versions that share blocks the higher is current."""
        parameters = {"storage_root": storage_root, "chain_id": chain_id, "dataset": dataset}
        rows = self._connections.rows("current", parameters)
        return {row["dataset_version"]: row["sequence"] for row in rows}

    def neighbours(
        self, storage_root: str, chain_id: int, dataset: str, block_range: BlockRange, *, synthetic: bool
    ) -> tuple[str, ...]:
        """Return the prefixes of the newest versions right before and right behind a range, where they are.

        Args:
            storage_root: the store's URL, without credentials.
            chain_id: the chain.
            dataset: the dataset.
            block_range: the range between them.
            synthetic: look among made-up versions, or among real ones; the two never join.
        """
        parameters = {
            "storage_root": storage_root,
            "chain_id": chain_id,
            "dataset": dataset,
            "synthetic": synthetic,
            **block_range._asdict(),
        }
        return tuple(row["prefix"] for row in self._connections.rows("neighbours", parameters))

    def touch_current(self, dataset: CommittedDataset) -> None:
        """Make a version that is committed in the store the current one of its range, if it is not."""
        self._connections.rows("record", dataset.parameters(None, None, None))

    def live_prefixes(self, storage_root: str) -> frozenset[str]:
        """Return where in a store live attempts are writing."""
        rows = self._connections.rows("live_prefixes", {"storage_root": storage_root})
        return frozenset(row["prefix"] for row in rows)

    @contextmanager
    def unclaimed(self, storage_root: str, prefix: str) -> Iterator[bool]:
        """Keep attempts from starting to write below a prefix; gives False where one is writing there."""
        parameters = {"storage_root": storage_root, "prefix": prefix}
        with self._connections.transaction("hold_prefix", parameters) as (connection, _):
            try:
                writers = connection.execute(QUERIES["writers_of_prefix"], parameters).fetchall()
                live = any(writer["live"] for writer in writers)
            except LockNotAvailable:
                live = True
            yield not live

    def follower(self, follower: str) -> FollowerState | None:
        """Return how far ``{dag}/{job}`` is; None where it never began."""
        return next(iter(self._followers(follower)), None)

    def followers(self) -> tuple[FollowerState, ...]:
        """Return how far every follower is, by name."""
        return self._followers(None)

    def _followers(self, follower: str | None) -> tuple[FollowerState, ...]:
        rows = self._connections.rows("follower", {"follower": follower})
        return tuple(FollowerState(**row) for row in rows)

    def consumer(self, consumer: str) -> ConsumerState | None:
        """Return how far the ``PerUpdate`` job ``{dag}/{job}`` is; None where it never began."""
        return next(iter(self._consumers(consumer)), None)

    def consumers(self) -> tuple[ConsumerState, ...]:
        """Return how far every ``PerUpdate`` job is, by name."""
        return self._consumers(None)

    def _consumers(self, consumer: str | None) -> tuple[ConsumerState, ...]:
        rows = self._connections.rows("consumers", {"consumer": consumer})
        return tuple(ConsumerState(**row) for row in rows)

    def extent(self, key: str) -> BlockRange | None:
        """Return the blocks that the follower or ``PerUpdate`` job ``{dag}/{job}`` has; None for none."""
        rows = self._connections.rows("extent", {"key": key})
        return BlockRange(rows[0]["first_block"], rows[0]["cursor_block"]) if rows else None

    def was_reset(self, follower: str) -> bool:
        """Whether the follower began anew because its DAG says so, and the DAG has said so ever since."""
        return bool(self._connections.rows("was_reset", {"follower": follower}))

    def forget_reset(self, follower: str) -> None:
        """Note that the DAG no longer asks for it: the next time that it does is another time."""
        self._connections.rows("forget_reset", {"follower": follower})

    def followed_blocks(self, follower: str, block_range: BlockRange) -> Mapping[int, bytes]:
        """Return the hashes of the blocks in a range that the follower has committed and remembers."""
        rows = self._connections.rows("followed_blocks", {"follower": follower, **block_range._asdict()})
        return {row["block_number"]: row["block_hash"] for row in rows}

    def saw_head(self, follower: str, head_block: int, final_block: int | None = None) -> None:
        """Note the head that the provider reports, and the last block that is taken for final."""
        parameters = {"follower": follower, "head_block": head_block, "final_block": final_block}
        self._connections.rows("saw_head", parameters)

    def saw_error(self, follower: str, error: TraceError) -> None:
        """Count a step that failed."""
        line = " ".join(str(error).split())[:_MAX_ERROR_CHARACTERS]
        self._connections.rows("saw_error", {"follower": follower, "error": line})

    def reorgs_of(self, follower: str) -> tuple[Reorg, ...]:
        """Return the reorganisations that were followed, oldest first."""
        return tuple(Reorg(**row) for row in self._connections.rows("reorgs_of", {"follower": follower}))

    def orphaned_blocks(self, follower: str) -> tuple[OrphanedBlock, ...]:
        """Return the blocks that reorganisations took out, oldest reorganisation first."""
        rows = self._connections.rows("orphaned_blocks", {"follower": follower})
        return tuple(OrphanedBlock(**row) for row in rows)

    def invalidations(self, dag: str, job: str, after: int = 0) -> tuple[Invalidation, ...]:
        """Return the invalidations of a job's blocks behind the one of that id, oldest first."""
        rows = self._connections.rows("invalidations", {"dag": dag, "job": job, "after": after})
        return tuple(Invalidation(**row) for row in rows)

    def last_invalidation(self, dag: str, job: str, block_range: BlockRange) -> Invalidation | None:
        """Return the newest invalidation of any of a job's blocks in a range; None where there is none."""
        rows = self._connections.rows("last_invalidation", {"dag": dag, "job": job, **block_range._asdict()})
        return Invalidation(**rows[0]) if rows else None

    def hand_on(
        self, invalidation: Invalidation, dag: str, jobs: Sequence[str], block_range: BlockRange
    ) -> None:
        """Invalidate a range of jobs that read what ``invalidation`` changed; twice is the same as once."""
        self._connections.rows(
            "hand_on_invalidation",
            {
                "invalidation_id": invalidation.invalidation_id,
                "dag": dag,
                "jobs": list(jobs),
                **block_range._asdict(),
            },
        )

    @contextmanager
    def connection(self) -> Iterator[Database]:
        """Lend a connection, for other tables of the same database.

        Raises:
            LedgerUnavailable: Postgres cannot be reached, or refuses.
        """
        with self._connections.lent() as connection:
            yield connection

    def guard(self, storage_root: str) -> Callable[[str], AbstractContextManager[bool]]:
        """Return ``unclaimed`` for one store, as ``trace_dagster.store.collect_garbage`` takes it."""
        return lambda prefix: self.unclaimed(storage_root, prefix)

    def publish_names(self, dag: str, names: Mapping[str, PublishedOutput]) -> None:
        """Make ``names`` the published names of a DAG; names that it no longer has are removed.

        Raises:
            ConfigurationError: another DAG publishes one of the names.
            LedgerUnavailable: Postgres cannot be reached, or refuses.
        """
        parameters = {"dag": dag, "names": list(names)}
        with self._connections.transaction("unpublish", parameters) as (connection, _):
            for name, target in sorted(names.items()):
                row = {"name": name, "dag": dag, "job": target.job, "output": target.output}
                if connection.execute(QUERIES["publish_name"], row).fetchone() is None:
                    raise self._taken(name)

    def release_names(self, dags: Iterable[str]) -> Sequence[str]:
        """Remove the published names of every DAG but ``dags``, and return them.

        Raises:
            LedgerUnavailable: Postgres cannot be reached, or refuses.
        """
        with self._connections.transaction("keep_publishers", {"dags": list(dags)}) as (_, rows):
            return sorted(row["name"] for row in rows)

    def published(self) -> Mapping[str, tuple[str, PublishedOutput]]:
        """Return every published name with its DAG and output."""
        return {
            row["name"]: (row["dag"], PublishedOutput(row["job"], row["output"]))
            for row in self._connections.rows("published", {})
        }

    def _taken(self, name: str) -> ConfigurationError:
        owner = self.published().get(name)
        return ConfigurationError(
            f"the published name {name!r} belongs to DAG {owner[0] if owner else 'unknown'!r}; "
            "publish under another name, take it out there first, or, if that DAG is no more, run trace "
            "publish --prune on all DAG files"
        )


def open_ledger(settings: Settings) -> Ledger:
    """Connect to Postgres, starting the embedded one where none is set, and bring the tables up to date.

    Raises:
        ConfigurationError: ``TRACE_POSTGRES_URL`` cannot be read, or the embedded server cannot run here.
        LedgerUnavailable: Postgres cannot be reached, or refuses.
    """
    with ExitStack() as resources:
        if settings.postgres_url is None:
            server = resources.enter_context(EmbeddedPostgres(settings.home / "postgres"))
            where = f"{settings.home / 'postgres'} (embedded)"
            connections = Connections(server.conninfo, where, server.ensure_running)
        else:
            url = _libpq_url(settings.postgres_url.get_secret_value())
            where = redact(url) if urlsplit(url).hostname else "the Unix socket of TRACE_POSTGRES_URL"
            connections = Connections(lambda: url, where, lambda: None)
        resources.callback(connections.close)
        ensure_schema(connections, where)
        return Ledger(connections, resources.pop_all())


def _libpq_url(url: str) -> str:
    """Return ``url`` without SQLAlchemy's driver name.

    Raises:
        ConfigurationError: it is no URL of a Postgres database; its text is not repeated.
    """
    plain = re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql://", url)
    try:
        port = urlsplit(plain).port  # raises where it is no number
        if plain.startswith("postgresql://") and conninfo_to_dict(plain) and port != 0:
            return plain
    except (ProgrammingError, ValueError):
        pass
    raise ConfigurationError(
        "TRACE_POSTGRES_URL is no Postgres URL; write postgresql://user:password@host:5432/database "
        "(with %40 for an @ in the password)"
    )
