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
from trace_dagster.chain.verification.trace_tree import check_tree
from trace_dagster.errors import DataMismatch

__all__ = ["PASSED", "Verifier", "not_checked", "unlinked"]

PASSED: Final = "passed"

_REORG: Final = "a reorganisation while reading? try again"
_LAGGING: Final = "a lagging backend? try again"
_NULL: Final = (
    "a lagging backend, or history that the node has pruned? try again, or ask an endpoint with all history"
)
_EMPTY_ROOT: Final = bytes.fromhex("56e81f171bcc55a6ff8345e692c0f86e5b48e01b996cadc001622fb5e363b421")
_LARGEST: Final = 2**62
"""No count, index or gas of a block is larger; sums of such stay within 64 bits."""

_OWN_FIELDS: Final = ("from_address", "nonce", "input", "value_binary", "gas_limit")
_LAST_KNOWN_TYPE: Final = 4


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
                f"{_NULL}"
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
        self._empty(flat, "empty_lists", flat.transactions.counts, "transactions", self._profile.empty_lists)
        withdrawals = Items.of(blocks.field("withdrawals")).counts
        self._empty(flat, "withdrawals_root", withdrawals, "withdrawals", self._profile.withdrawals_root)
        return flat

    def _empty(
        self, flat: FlatBatch, name: str, counts: pa.Int64Array, what: str, exempt: str | None
    ) -> None:
        """Check that a list without items is empty by its root in the header, too."""
        if exempt is not None:
            self.checks[name] = not_checked(exempt)
            return
        root = flat.column(f"{what}_root")
        differs = pc.fill_null(pc.not_equal(root, pa.scalar(_EMPTY_ROOT, root.type)), False)  # noqa: FBT003
        at = pc.index(pc.and_(pc.equal(counts, 0), differs), True).as_py()
        if at >= 0:
            raise DataMismatch(
                f"block {flat.range.start_block + at}: the endpoint gave no {what}, but the block's root of "
                f"them is {_show(root, at)}, not that of an empty list; {_LAGGING}"
            )
        self._passed(name)

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
            self._whole(flat, held)
            self._same(flat, held, "transaction", "transaction_index", held.position, optional=True)
            self._same(
                flat,
                held,
                "transaction",
                "block_hash",
                held.of_parent(flat.column("block_hash")),
                optional=True,
            )

    def _whole(self, flat: FlatBatch, held: Items) -> None:
        """Check that transactions have what all have; of types that are not known, nothing is known."""
        kinds = pc.fill_null(held.column("transaction_type"), 0)
        known = pc.less_equal(kinds, pa.scalar(_LAST_KNOWN_TYPE, kinds.type))
        for name in _OWN_FIELDS:
            column = held.column(name)
            if not column.null_count:
                continue
            at = pc.index(pc.and_(known, pc.is_null(column)), True).as_py()
            if at >= 0:
                raise DataMismatch(
                    f"{_place(flat, held, at)}: the endpoint gave transaction {held.position[at]} without "
                    f"its {name.removesuffix('_binary')}, although whole transactions were asked for"
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
        used = _bounded(flat, receipts, "gas_used")
        sums = receipts.column("cumulative_gas_used")
        if not sums.null_count:
            before = pa.concat_arrays(
                [pa.array([0], pa.int64()), _bounded(flat, receipts, "cumulative_gas_used")[:-1]]
            )
            expected = pc.add(pc.if_else(pc.equal(receipts.position, 0), 0, before[: len(used)]), used)
            at = _difference(sums, expected.cast(pa.uint64()))
            if at is not None:
                raise DataMismatch(
                    f"{_place(flat, receipts, at)}: its receipt has cumulative gas {sums[at]}, but "
                    f"{expected[at]} is due: its own gas is {used[at]}"
                )
        total = receipts.summed(used)
        at = _difference(flat.column("gas_used"), total.cast(pa.uint64()))
        if at is not None:
            raise DataMismatch(
                f"block {flat.range.start_block + at}: it used {flat.column('gas_used')[at]} gas, but its "
                f"receipts add up to {total[at]}"
            )
        if sums.null_count:
            self.checks["gas"] = not_checked("receipts do not tell the cumulative gas, only the sum is right")
            return
        self._passed("gas")

    def _logs(self, flat: FlatBatch, receipts: Items) -> FlatBatch:
        held = Items.of(receipts.column("logs"))
        # Lists of logs have receipts for parents; from here on logs have blocks.
        per_block = receipts.summed(held.counts)
        ends = pc.cumulative_sum(per_block)
        logs = Items(held.rows, receipts.parent.take(held.parent), pc.subtract(ends, per_block), per_block)
        self._log_places(flat, logs, held.parent)
        self._dense(flat, logs)
        return replace(flat, logs=logs, log_transaction=held.parent)

    def _logs_alone(self, flat: FlatBatch, lists: pa.LargeListArray) -> FlatBatch:
        logs, listed = Items.of(lists), flat.transactions
        index = _bounded(flat, logs, "transaction_index")
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
            self._ascending(flat, logs)
            self.checks["completeness"] = not_checked(
                "the endpoint applied the job's filters; only blocks without any such log were compared with "
                "their blooms"
            )
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

    def _ascending(self, flat: FlatBatch, logs: Items) -> None:
        """Check that no log comes twice; they are in order of their index."""
        index = logs.column("log_index")
        twice = pc.and_(pc.equal(index[1:], index[:-1]), pc.equal(logs.parent[1:], logs.parent[:-1]))
        at = pc.index(twice, True).as_py()
        if at >= 0:
            raise DataMismatch(f"{_place(flat, logs, at)}: log {index[at]} was given twice")

    def _bloom(self, flat: FlatBatch, logs: Items) -> None:
        """Check logs against the blocks' own blooms."""
        name = "logs_bloom"
        announced = flat.column("logs_bloom")
        ends = pc.add(logs.starts, logs.counts)
        columns = [logs.column(column) for column in ("address", "topic0", "topic1", "topic2", "topic3")]
        held = blooms(columns, [0, *ends.to_pylist()])
        profile = self._profile
        exact = not self._logs_filtered and profile.bloom_announces_all is None
        if exact and profile.zero_bloom is None and held.equals(announced):
            self._passed(name)
            return
        transactions = flat.transactions.counts.to_pylist()
        for at, (said, due) in enumerate(zip(announced.to_pylist(), held.to_pylist(), strict=True)):
            if said is None:
                self.checks[name] = not_checked("blocks have no logsBloom")
                continue
            if not any(said):
                if any(due):
                    self.checks[name] = not_checked("the blooms are empty although there are logs")
                elif profile.zero_bloom is not None and transactions[at]:
                    self.checks.setdefault(name, not_checked(profile.zero_bloom))
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
            raise DataMismatch(f"block {number}: the endpoint answers null for its traces; {_NULL}")
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
        why_not = check_tree(flat, traces)
        self.checks["trace_tree"] = not_checked(why_not) if why_not else PASSED
        return replace(flat, traces=traces)

    def _frames(self, flat: FlatBatch, lists: pa.LargeListArray) -> FlatBatch:
        if lists.null_count:
            number = flat.range.start_block + pc.index(pc.is_null(lists), True).as_py()
            raise DataMismatch(f"block {number}: the endpoint answers null for its call frames; {_NULL}")
        frames = Items.of(lists)
        self._one_each(flat, frames, pc.equal(frames.column("trace_address"), ""), "outermost frames")
        self._members(flat, frames)
        self._passed("outermost_calls")
        self._named(flat, frames)
        return replace(flat, frames=frames)

    def _named(self, flat: FlatBatch, frames: Items) -> None:
        """Check whose the frames are where the node does not name their transactions."""
        if not frames.column("transaction_hash").null_count:
            self._passed("frames_match_transactions")
            return
        outermost = pc.equal(frames.column("trace_address"), "")
        if flat.has_transactions:
            senders, due = (
                frames.column("from_address").filter(outermost),
                flat.transactions.column("from_address"),
            )
            at = _difference(senders, due)
            if at is not None:
                raise DataMismatch(
                    f"{_place(flat, flat.transactions, at)}: the outermost frame of transaction "
                    f"{flat.transactions.position[at]} is from {_show(senders, at)}, but {_show(due, at)} is "
                    "due"
                )
        self.checks["frames_match_transactions"] = not_checked(
            "the node does not name the transactions of its call frames"
        )

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
        found = _bounded(flat, given, "transaction_index").filter(outermost)
        at = _difference(found, listed.position)
        if at is not None:
            raise DataMismatch(
                f"{_place(flat, listed, at)}: transaction {listed.position[at]} has none of the {what}"
            )

    def _members(self, flat: FlatBatch, given: Items) -> None:
        """Check that each row's transaction is the one at its index."""
        listed = flat.transactions
        index = _bounded(flat, given, "transaction_index")
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


def _bounded(flat: FlatBatch, rows: Items, name: str) -> pa.Int64Array:
    """Return a column of numbers, of which none is beyond what counts, indexes and gas can be."""
    column = rows.column(name)
    too_large = pc.greater(column, pa.scalar(_LARGEST, column.type))
    if pc.any(too_large).as_py():
        at = pc.index(too_large, True).as_py()
        raise DataMismatch(f"{_place(flat, rows, at)}: {name} {column[at]} cannot be")
    return column.cast(pa.int64())


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
