"""What must hold in every batch of blocks; the first thing that does not is an error with its values."""

from dataclasses import replace
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from trace_dagster.chain.batch import BlockBatch
from trace_dagster.chain.headers import show
from trace_dagster.chain.measures import blooms
from trace_dagster.chain.profiles import ChainProfile
from trace_dagster.chain.verification.flat import FlatBatch, Items, counting
from trace_dagster.errors import DataMismatch

__all__ = ["PASSED", "Verifier", "not_checked", "unlinked"]

PASSED: Final = "passed"

_REORG: Final = "a reorganisation while reading? try again"
_LAGGING: Final = "a lagging backend? try again"


def not_checked(why: str) -> str:
    """Return the outcome of a check that was not made; ``why`` is deterministic."""
    return f"not checked: {why}"


class Verifier:
    """Checks batches of blocks, each for itself; that one follows another is for whoever puts them in order.

    Args:
        profile: which rules hold on the chain.
        logs_filtered: whether logs without receipts lack those that a filter leaves out.

    Attributes:
        checks: the outcome so far of every check that was due: ``PASSED``, or ``not_checked(why)``.
    """

    def __init__(self, profile: ChainProfile, *, logs_filtered: bool = False) -> None:
        self.checks: dict[str, str] = {}
        self._profile = profile
        self._logs_filtered = logs_filtered

    def verify(self, batch: BlockBatch) -> FlatBatch:
        """Return the batch laid out, with receipts in the order of their transactions.

        Raises:
            DataMismatch: something in it disagrees with itself, or with what was asked.
        """
        flat = self._blocks(batch)
        if batch.receipts is not None:
            flat = self._receipts(flat, batch.receipts)
        elif batch.logs is not None:
            flat = self._logs_alone(flat, batch.logs)
        if flat.logs is not None:
            self._bloom(flat, flat.logs)
        if batch.traces is not None:
            flat = self._traces(flat, batch.traces)
        if batch.frames is not None:
            flat = self._frames(flat, batch.frames)
        return flat

    def _blocks(self, batch: BlockBatch) -> FlatBatch:
        blocks, first = batch.blocks, batch.range.start_block
        if blocks.null_count:
            number = first + pc.index(pc.is_null(blocks), True).as_py()
            raise DataMismatch(
                f"the endpoint answers null for block {number}, which is below the head that it reports; "
                f"{_LAGGING}"
            )
        numbers = pc.add(counting(len(blocks)), first).cast(pa.uint64())
        at = _difference(blocks.field("block_number"), numbers)
        if at is not None:
            raise DataMismatch(
                f"block {numbers[at]}: the endpoint answered with block {blocks.field('block_number')[at]}"
            )
        hashes, parents = blocks.field("block_hash"), blocks.field("parent_hash")
        at = _difference(parents[1:], hashes[:-1])
        if at is not None:
            raise unlinked(first + at + 1, parents[at + 1].as_py(), hashes[at].as_py())
        self._passed("headers", "parent_links")
        flat = FlatBatch(batch.range, blocks, Items.of(blocks.field("transactions")), batch.has_transactions)
        self._transactions(flat)
        return flat

    def _transactions(self, flat: FlatBatch) -> None:
        held = flat.transactions
        hashes = held.column("transaction_hash")
        if pc.count_distinct(hashes).as_py() != len(hashes):
            counts = pc.value_counts(hashes)
            twice = pc.index(pc.greater(counts.field("counts"), 1), True).as_py()
            raise DataMismatch(
                f"blocks {flat.range.key}: transaction {_show(counts.field('values'), twice)} is listed twice"
            )
        if flat.has_transactions:
            self._same(flat, held, "transaction", "transaction_index", held.position, optional=True)
            self._same(
                flat,
                held,
                "transaction",
                "block_hash",
                held.of_parent(flat.column("block_hash")),
                optional=True,
            )

    def _receipts(self, flat: FlatBatch, lists: pa.LargeListArray) -> FlatBatch:
        listed, given = flat.transactions, Items.of(lists)
        at = _difference(given.counts, listed.counts)
        if at is not None:
            said = "null" if not lists[at].is_valid else f"{given.counts[at]} receipts"
            raise DataMismatch(
                f"block {flat.range.start_block + at}: it lists {listed.counts[at]} transactions, but "
                f"the endpoint gave {said}; {_LAGGING}"
            )
        given = self._in_order(flat, given)
        for name, expected in (
            ("transaction_index", listed.position),
            ("block_hash", listed.of_parent(flat.column("block_hash"))),
            ("block_number", listed.of_parent(flat.column("block_number"))),
        ):
            self._same(flat, given, "the receipt of transaction", name, expected)
        if flat.has_transactions:
            for name in ("from_address", "to_address", "transaction_type"):
                self._same(
                    flat, given, "the receipt of transaction", name, listed.column(name), optional=True
                )
        self._passed("receipts_match_transactions")
        self._gas(flat, given)
        return self._logs(replace(flat, receipts=given), given)

    def _in_order(self, flat: FlatBatch, given: Items) -> Items:
        """Return the receipts in the order of the transactions, found by hash."""
        due, found = flat.transactions.column("transaction_hash"), given.column("transaction_hash")
        if found.equals(due):
            return given
        places = pc.index_in(due, value_set=found)
        if places.null_count:
            at = pc.index(pc.is_null(places), True).as_py()
            raise DataMismatch(
                f"{_place(flat, flat.transactions, at)}: the endpoint gave no receipt for {_show(due, at)}"
            )
        return replace(given, rows=given.rows.take(places))

    def _gas(self, flat: FlatBatch, receipts: Items) -> None:
        if self._profile.gas is not None:
            self.checks["gas"] = not_checked(self._profile.gas)
            return
        if not len(receipts.rows):
            self._passed("gas")
            return
        sums, used = receipts.column("cumulative_gas_used"), receipts.column("gas_used")
        if sums.null_count:
            self.checks["gas"] = not_checked("receipts do not tell the cumulative gas")
            return
        before = pa.concat_arrays([pa.array([0], pa.uint64()), sums[:-1]])
        first = pc.equal(receipts.position, 0)
        expected = pc.add(pc.if_else(first, 0, before), used)
        at = _difference(sums, expected.cast(pa.uint64()))
        if at is not None:
            raise DataMismatch(
                f"{_place(flat, receipts, at)}: its receipt has cumulative gas {sums[at]}, but "
                f"{expected[at]} is due: its own gas is {used[at]}"
            )
        ends = pc.subtract(pc.add(receipts.starts, receipts.counts), 1)
        total = pc.if_else(pc.greater(receipts.counts, 0), sums.take(pc.max_element_wise(ends, 0)), 0)
        at = _difference(flat.column("gas_used"), total.cast(pa.uint64()))
        if at is not None:
            raise DataMismatch(
                f"block {flat.range.start_block + at}: it used {flat.column('gas_used')[at]} gas, but its "
                f"receipts add up to {total[at]}"
            )
        self._passed("gas")

    def _logs(self, flat: FlatBatch, receipts: Items) -> FlatBatch:
        held = Items.of(receipts.column("logs"))
        # Lists of logs have receipts for parents; from here on logs have blocks.
        per_block = _sums(held.counts, receipts)
        ends = pc.cumulative_sum(per_block)
        logs = Items(held.rows, receipts.parent.take(held.parent), pc.subtract(ends, per_block), per_block)
        self._log_places(flat, logs, held.parent)
        self._dense(flat, logs)
        return replace(flat, logs=logs, log_transaction=held.parent)

    def _logs_alone(self, flat: FlatBatch, lists: pa.LargeListArray) -> FlatBatch:
        logs, listed = Items.of(lists), flat.transactions
        index = logs.column("transaction_index").cast(pa.int64())
        outside = pc.greater_equal(index, logs.of_parent(listed.counts))
        if pc.any(outside).as_py():
            at = pc.index(outside, True).as_py()
            raise DataMismatch(
                f"{_place(flat, logs, at)}: log {logs.column('log_index')[at]} is of transaction "
                f"{index[at]}, but the block lists {listed.counts[logs.parent[at].as_py()]}"
            )
        transaction = pc.add(logs.of_parent(listed.starts), index)
        self._log_places(flat, logs, transaction)
        if self._logs_filtered:
            self.checks["completeness"] = not_checked("the job's filters leave rows out")
        else:
            self._dense(flat, logs)
        return replace(flat, logs=logs, log_transaction=transaction)

    def _log_places(self, flat: FlatBatch, logs: Items, transaction: pa.Int64Array) -> None:
        listed = flat.transactions
        for name, expected in (
            ("block_number", logs.of_parent(flat.column("block_number"))),
            ("block_hash", logs.of_parent(flat.column("block_hash"))),
            ("transaction_index", listed.position.take(transaction)),
            ("transaction_hash", listed.column("transaction_hash").take(transaction)),
        ):
            self._same(flat, logs, "log", name, expected)
        removed = logs.column("removed")
        if pc.any(removed).as_py():
            at = pc.index(removed, True).as_py()
            raise DataMismatch(
                f"{_place(flat, logs, at)}: log {logs.column('log_index')[at]} is marked as removed: {_REORG}"
            )
        self._passed("logs_match_transactions")

    def _dense(self, flat: FlatBatch, logs: Items) -> None:
        at = _difference(logs.column("log_index"), logs.position.cast(pa.uint64()))
        if at is not None:
            raise DataMismatch(
                f"{_place(flat, logs, at)}: log_index {logs.column('log_index')[at]} where "
                f"{logs.position[at]} is due"
            )
        self._passed("log_index")

    def _bloom(self, flat: FlatBatch, logs: Items) -> None:
        """Check logs against the blocks' own blooms; those that are all zero announce nothing."""
        name = "logs_bloom"
        announced = flat.column("logs_bloom")
        ends = pc.add(logs.starts, logs.counts)
        columns = [logs.column(column) for column in ("address", "topic0", "topic1", "topic2", "topic3")]
        held = blooms(columns, [0, *ends.to_pylist()])
        exact = not self._logs_filtered and self._profile.bloom_announces_all is None
        if exact and held.equals(announced):
            self._passed(name)
            return
        for at, (said, due) in enumerate(zip(announced.to_pylist(), held.to_pylist(), strict=True)):
            if said is None or not any(said):
                if any(due):
                    self.checks[name] = not_checked("the blooms are empty although there are logs")
                continue
            self._bloom_of_one(
                flat.range.start_block + at, int.from_bytes(said), int.from_bytes(due), exact=exact
            )
        if self._profile.bloom_announces_all is not None:
            self.checks[f"{name}_announces_all"] = not_checked(self._profile.bloom_announces_all)
        self._passed(name)

    def _bloom_of_one(self, number: int, said: int, due: int, *, exact: bool) -> None:
        if due & ~said and self._profile.bloom_announces_all is None:
            raise DataMismatch(
                f"block {number}: its logsBloom excludes some of the addresses and topics of its logs"
            )
        if said & ~due and (exact or not self._logs_filtered):
            raise DataMismatch(
                f"block {number}: its logsBloom announces logs that are missing; try again, or ask "
                "another endpoint"
            )

    def _traces(self, flat: FlatBatch, lists: pa.LargeListArray) -> FlatBatch:
        if lists.null_count:
            number = flat.range.start_block + pc.index(pc.is_null(lists), True).as_py()
            raise DataMismatch(f"block {number}: the endpoint answers null for its traces; {_LAGGING}")
        traces = Items.of(lists)
        for name in ("block_number", "block_hash"):
            self._same(flat, traces, "trace", name, traces.of_parent(flat.column(name)))
        depth = pc.list_value_length(traces.column("trace_address"))
        outermost = pc.and_(
            pc.equal(pc.fill_null(depth, 0), 0), pc.is_valid(traces.column("transaction_index"))
        )
        self._one_each(flat, traces, outermost, "outermost traces")
        self._members(flat, traces)
        self._passed("outermost_calls")
        return replace(flat, traces=traces)

    def _frames(self, flat: FlatBatch, lists: pa.LargeListArray) -> FlatBatch:
        if lists.null_count:
            number = flat.range.start_block + pc.index(pc.is_null(lists), True).as_py()
            raise DataMismatch(f"block {number}: the endpoint answers null for its call frames; {_LAGGING}")
        frames = Items.of(lists)
        self._one_each(flat, frames, pc.equal(frames.column("trace_address"), ""), "outermost frames")
        self._members(flat, frames)
        self._passed("outermost_calls")
        return replace(flat, frames=frames)

    def _one_each(self, flat: FlatBatch, given: Items, outermost: pa.BooleanArray, what: str) -> None:
        """Check that every transaction has one of the outermost, in order."""
        listed = flat.transactions
        counts = _counts(given.parent.filter(outermost), len(flat.blocks))
        at = _difference(counts, listed.counts)
        if at is not None:
            raise DataMismatch(
                f"block {flat.range.start_block + at}: it lists {listed.counts[at]} transactions, but the "
                f"endpoint gave {counts[at]} {what}; {_LAGGING}"
            )
        found = given.column("transaction_index").filter(outermost).cast(pa.int64())
        at = _difference(found, listed.position)
        if at is not None:
            raise DataMismatch(
                f"{_place(flat, listed, at)}: transaction {listed.position[at]} has none of the {what}"
            )

    def _members(self, flat: FlatBatch, given: Items) -> None:
        """Check that each row's transaction is the one at its index."""
        listed = flat.transactions
        index = given.column("transaction_index").cast(pa.int64())
        if pc.any(pc.greater_equal(index, given.of_parent(listed.counts))).as_py():
            raise DataMismatch(
                f"blocks {flat.range.key}: a trace is of a transaction that its block does not list"
            )
        due = listed.column("transaction_hash").take(pc.add(given.of_parent(listed.starts), index))
        self._same(flat, given, "trace", "transaction_hash", due, optional=True)

    def _same(
        self,
        flat: FlatBatch,
        rows: Items,
        what: str,
        name: str,
        expected: pa.Array,
        *,
        optional: bool = False,
    ) -> None:
        """Check a column; where ``optional``, only the rows in which both sides are there."""
        column = rows.column(name)
        at = _difference(column, expected.cast(column.type), optional=optional)
        if at is not None:
            hint = f": {_REORG}" if name == "block_hash" else ""
            raise DataMismatch(
                f"{_place(flat, rows, at)}: {what} {rows.position[at]} has {name} {_show(column, at)}, but "
                f"{_show(expected, at)} is due{hint}"
            )

    def _passed(self, *names: str) -> None:
        for name in names:
            self.checks.setdefault(name, PASSED)


def unlinked(number: int, parent_hash: bytes, before: bytes) -> DataMismatch:
    """Return the error that block ``number`` names another parent than the block before it."""
    return DataMismatch(
        f"block {number} has the parent {show(parent_hash)}, but block {number - 1} is {show(before)}: "
        f"{_REORG}"
    )


def _difference(found: pa.Array, due: pa.Array, *, optional: bool = False) -> int | None:
    """Return the first place where two columns differ, or None; null differs from anything but null."""
    if found.equals(due):
        return None
    unequal = pc.not_equal(found, due)
    if not optional:
        one_null = pc.xor(pc.is_null(found), pc.is_null(due))
        unequal = pc.or_(pc.fill_null(unequal, False), one_null)  # noqa: FBT003
    at: int = pc.index(unequal, True).as_py()
    return None if at < 0 else at


def _sums(counts: pa.Int64Array, groups: Items) -> pa.Int64Array:
    """Return the sum of ``counts``, one for each of the groups' items, by group."""
    total = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(counts)])
    return pc.subtract(total.take(pc.add(groups.starts, groups.counts)), total.take(groups.starts))


def _counts(parents: pa.Int64Array, count: int) -> pa.Int64Array:
    """Return how often each of 0 to ``count`` - 1 stands in ``parents``."""
    found = [0] * count
    for entry in pc.value_counts(parents):
        found[entry["values"].as_py()] = entry["counts"].as_py()
    return pa.array(found, pa.int64())


def _place(flat: FlatBatch, rows: Items, at: int) -> str:
    parent: int = rows.parent[at].as_py()
    return f"block {flat.range.start_block + parent} ({_show(flat.column('block_hash'), parent)})"


def _show(column: pa.Array, at: int) -> str:
    return show(column[at].as_py())
