"""Asks an endpoint for a run of blocks, in the ways that it has."""

import threading
from collections.abc import Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from trace_dagster.chain.batch import BlockBatch
from trace_dagster.chain.decoding.decoded import Decoder, Refusal
from trace_dagster.chain.decoding.frames_as_traces import traces_of_frames
from trace_dagster.chain.decoding.layout import Shape, arrow_type
from trace_dagster.chain.decoding.layouts import BLOCK, FRAMES, LOGS, RECEIPT, RECEIPTS, TRACES
from trace_dagster.chain.headers import show
from trace_dagster.chain.measures import blooms
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.chain.verification.flat import Items
from trace_dagster.errors import DataMismatch, EngineFailed
from trace_dagster.operators.cryo_ingest.native.plan import FetchPlan
from trace_dagster.rpc import ReplyError
from trace_dagster.rpc.client import BatchRefused, Call, JsonRpcClient

__all__ = ["MAX_ITEMS", "Abilities", "BlockReader"]

MAX_ITEMS: Final = 100
"""Most requests of one batch; more do not get faster, and many providers refuse them."""

_RECEIPTS_BY_BLOCK: Final = "eth_getBlockReceipts"
_RECEIPT: Final = "eth_getTransactionReceipt"
_TRACES: Final = "trace_block"
_FRAMES: Final = "debug_traceBlockByNumber"
_CALL_TRACER: Final = {"tracer": "callTracer"}
_WHAT_NEEDS: Final = {
    _RECEIPT: "transactions, receipts and all logs of a block",
    _FRAMES: "calls, and traces, contracts and native_transfers where there is no trace_block,",
}

Asked = tuple[Call, Shape]


class Abilities:
    """What the endpoint was found to do and not to do; shared by all connections.

    Attributes:
        max_items: most requests of a batch.
        receipts_by_block: whether it has ``eth_getBlockReceipts``.
        traces: whether it has ``trace_block``.
        log_blocks: most blocks of one request for logs, or None for no limit.
        fallbacks: what is done instead of what it does not do, by method.
    """

    def __init__(self) -> None:
        self.max_items = MAX_ITEMS
        self.receipts_by_block = self.traces = True
        self.log_blocks: int | None = None
        self.fallbacks: dict[str, str] = {}
        self._lock = threading.Lock()

    def smaller_batches(self, refused: int) -> None:
        """Note that a batch of ``refused`` requests was refused."""
        with self._lock:
            self.max_items = max(1, min(self.max_items, refused // 4))
            self.fallbacks["batch"] = (
                f"at most {self.max_items} requests at once" if self.max_items > 1 else "single requests"
            )

    def no_receipts_by_block(self) -> None:
        """Note that there is no ``eth_getBlockReceipts``."""
        with self._lock:
            self.receipts_by_block = False
            self.fallbacks[_RECEIPTS_BY_BLOCK] = f"{_RECEIPT} for every transaction"

    def no_traces(self) -> None:
        """Note that there is no ``trace_block``."""
        with self._lock:
            self.traces = False
            self.fallbacks[_TRACES] = "call frames, whose outermost gas is that of the transaction"

    def shorter_log_ranges(self, refused: int) -> None:
        """Note that logs of ``refused`` blocks were refused."""
        with self._lock:
            limit = max(1, refused // 2)
            self.log_blocks = limit if self.log_blocks is None else min(self.log_blocks, limit)
            self.fallbacks["eth_getLogs"] = f"ranges of at most {self.log_blocks} blocks"

    def logs_from_receipts(self) -> None:
        """Note that the logs of one block alone were refused."""
        with self._lock:
            self.fallbacks["eth_getLogs of one block"] = "receipts"


class BlockReader:
    """Reads runs of blocks over one connection.

    Args:
        client: the connection.
        plan: what to ask.
        decoder: reads the replies.
        abilities: what the endpoint does.
    """

    def __init__(
        self, client: JsonRpcClient, plan: FetchPlan, decoder: Decoder, abilities: Abilities
    ) -> None:
        self._client, self._plan, self._decoder, self._abilities = client, plan, decoder, abilities

    def read(self, blocks: BlockRange) -> BlockBatch:
        """Return what the plan asks of ``blocks``, as the endpoint gives it; nothing of it is checked.

        Raises:
            DataMismatch: an answer cannot be read, or a transaction has no receipt.
            EngineFailed: the endpoint lacks a method that nothing can stand in for.
            RpcError: it answers with an error.
        """
        plan, numbers = self._plan, range(blocks.start_block, blocks.end_block + 1)
        asked: list[Asked] = [(call, BLOCK) for call in plan.block_calls(numbers)]
        by_block = plan.receipts and self._abilities.receipts_by_block
        if by_block:
            asked += [((_RECEIPTS_BY_BLOCK, [hex(number)]), RECEIPTS) for number in numbers]
        by_traces = plan.traces and self._abilities.traces
        if by_traces:
            asked += [((_TRACES, [hex(number)]), TRACES) for number in numbers]
        if plan.frames or (plan.traces and not by_traces):
            asked += self._frame_calls(numbers)
        log_ranges = self._log_ranges(blocks) if plan.logs else []
        asked += [(plan.log_call(one), LOGS) for one in log_ranges]
        results, refusals = self._ask(asked)
        refused_logs = self._sort_out(asked, refusals, first_log=len(asked) - len(log_ranges))
        headers = results[BLOCK]
        receipts = results.get(RECEIPTS)
        if plan.receipts and not self._abilities.receipts_by_block:
            receipts = self._receipts_one_by_one(headers, blocks)
        traces, frames = results.get(TRACES), results.get(FRAMES)
        if plan.traces and not self._abilities.traces:
            if frames is None:
                frames = self._frames(numbers)
            traces = traces_of_frames(frames, headers)
        return BlockBatch(
            range=blocks,
            blocks=headers,
            has_transactions=plan.full,
            receipts=receipts,
            logs=self._logs(headers, blocks, results[LOGS], [log_ranges[at] for at in refused_logs])
            if plan.logs
            else None,
            traces=traces,
            frames=frames if plan.frames else None,
        )

    def _frame_calls(self, numbers: Sequence[int]) -> list[Asked]:
        return [((_FRAMES, [hex(number), _CALL_TRACER]), FRAMES) for number in numbers]

    def _frames(self, numbers: Sequence[int]) -> pa.LargeListArray:
        asked = self._frame_calls(numbers)
        results, refusals = self._ask(asked)
        self._sort_out(asked, refusals, first_log=len(asked))
        return results[FRAMES]

    def _ask(self, asked: Sequence[Asked]) -> tuple[dict[Shape, pa.Array], dict[int, Refusal]]:
        """Return the results by shape, in the order of the calls, and what was refused, by place."""
        pieces: dict[Shape, list[pa.Array]] = {}
        refusals: dict[int, Refusal] = {}
        done = 0
        while done < len(asked):
            some = asked[done : done + self._abilities.max_items]
            try:
                decoded = self._client.decoded(
                    [call for call, _ in some], [shape for _, shape in some], self._decoder
                )
            except BatchRefused:
                self._abilities.smaller_batches(len(some))
                continue
            for shape, array in decoded.results.items():
                pieces.setdefault(shape, []).append(array)
            refusals |= {done + at: refusal for at, refusal in decoded.refusals.items()}
            done += len(some)
        joined = {
            shape: arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)
            for shape, arrays in pieces.items()
        }
        return joined, refusals

    def _sort_out(self, asked: Sequence[Asked], refusals: dict[int, Refusal], *, first_log: int) -> list[int]:
        """Raise what nothing can be done about; return which requests for logs were refused."""
        logs = []
        for at, refusal in refusals.items():
            method = asked[at][0][0]
            error = self._client.reply_error(method, refusal)
            if at >= first_log:
                self._check_log_refusal(error, asked[at][0])
                logs.append(at - first_log)
            elif method == _RECEIPTS_BY_BLOCK and error.unsupported:
                self._abilities.no_receipts_by_block()
            elif method == _TRACES and error.unsupported:
                self._abilities.no_traces()
            elif method in _WHAT_NEEDS and error.unsupported:
                raise EngineFailed(
                    f"{error}; {_WHAT_NEEDS[method]} need it: leave them out, or name an rpc_pool that has it"
                )
            else:
                raise error
        return logs

    def _check_log_refusal(self, error: ReplyError, call: Call) -> None:
        """Raise where logs of fewer blocks would be refused as well; note a limit that the endpoint names."""
        if error.final:
            raise error
        (wanted,) = call[1]
        blocks = int(wanted["toBlock"], 16) - int(wanted["fromBlock"], 16) + 1
        if error.limits_logs and blocks > 1:
            self._abilities.shorter_log_ranges(blocks)

    def _receipts_one_by_one(self, blocks: pa.StructArray, asked: BlockRange) -> pa.LargeListArray:
        listed = Items.of(blocks.field("transactions"))
        hashes = listed.column("transaction_hash").to_pylist()
        calls: list[Asked] = [((_RECEIPT, [f"0x{one.hex()}"]), RECEIPT) for one in hashes]
        if not calls:
            return _lists([0] * len(blocks), pa.array([], arrow_type(RECEIPT.layout)))
        results, refusals = self._ask(calls)
        self._sort_out(calls, refusals, first_log=len(calls))
        found = results[RECEIPT]
        if found.null_count:
            at = pc.index(pc.is_null(found), True).as_py()
            number = asked.start_block + listed.parent[at].as_py()
            raise DataMismatch(f"block {number}: the endpoint gave no receipt for {show(hashes[at])}")
        return _lists(listed.counts.to_pylist(), found)

    def _log_ranges(self, blocks: BlockRange) -> list[BlockRange]:
        limit = self._abilities.log_blocks
        return list(blocks.split(limit)) if limit else [blocks]

    def _logs(
        self,
        blocks: pa.StructArray,
        asked: BlockRange,
        given: pa.LargeListArray,
        refused: Sequence[BlockRange],
    ) -> pa.LargeListArray:
        """Return the logs by block, those of ``refused`` ranges asked for in other ways."""
        pieces = [_flat_logs(given, len(refused), asked)]
        for one in refused:
            pieces += self._logs_in_halves(blocks, asked, one)
        logs = pa.concat_arrays(pieces) if len(pieces) > 1 else pieces[0]
        numbers = logs.field("block_number")
        first, last = (pa.scalar(one, numbers.type) for one in asked)
        outside = pc.or_(pc.less(numbers, first), pc.greater(numbers, last))
        if pc.any(outside).as_py():
            raise DataMismatch(
                f"the endpoint gave a log of block {numbers.filter(outside)[0]} where blocks "
                f"{asked.start_block} to {asked.end_block} were asked for"
            )
        places = pc.subtract(numbers.cast(pa.int64()), asked.start_block)
        if self._plan.log_filter:
            quiet = sorted(set(range(asked.blocks)) - set(places.to_pylist()))
            logs = pa.concat_arrays([logs, *self._logs_of_quiet_blocks(blocks, asked, quiet)])
            places = pc.subtract(logs.field("block_number").cast(pa.int64()), asked.start_block)
        order = pc.sort_indices(
            pa.table({"place": places, "index": logs.field("log_index")}),
            sort_keys=[("place", "ascending"), ("index", "ascending")],
        )
        counts = [0] * asked.blocks
        for entry in pc.value_counts(places):
            counts[entry["values"].as_py()] = entry["counts"].as_py()
        return _lists(counts, logs.take(order))

    def _logs_in_halves(
        self, blocks: pa.StructArray, asked: BlockRange, refused: BlockRange
    ) -> list[pa.StructArray]:
        """Return the logs of a range that was refused as a whole."""
        if refused.blocks == 1:
            self._abilities.logs_from_receipts()
            return [self._logs_of_receipts(blocks, asked, refused)]
        halves = list(refused.split(-(-refused.blocks // 2)))
        calls: list[Asked] = [(self._plan.log_call(one), LOGS) for one in halves]
        results, refusals = self._ask(calls)
        pieces = [_flat_logs(results[LOGS], len(refusals), refused)]
        for at in self._sort_out(calls, refusals, first_log=0):
            pieces += self._logs_in_halves(blocks, asked, halves[at])
        return pieces

    def _logs_of_quiet_blocks(
        self, blocks: pa.StructArray, asked: BlockRange, quiet: Sequence[int]
    ) -> list[pa.StructArray]:
        """Return matching logs of blocks of which a filtered answer had none, although their blooms do.

        A bloom may announce what is not there: all of the block's logs are asked for, and compared with it.

        Args:
            blocks: the headers.
            asked: the blocks.
            quiet: places of the blocks without any log in the answer.
        """
        announced = blocks.field("logs_bloom").to_pylist()
        due = [at for at in quiet if announced[at] and self._plan.may_have_logs(announced[at])]
        if not due:
            return []
        ranges = [BlockRange.of(asked.start_block + at, asked.start_block + at) for at in due]
        calls: list[Asked] = [(self._plan.all_logs_call(one), LOGS) for one in ranges]
        results, refusals = self._ask(calls)
        refused = set(self._sort_out(calls, refusals, first_log=0))
        found = []
        for place, at in enumerate(due):
            logs = (
                self._logs_of_receipts(blocks, asked, ranges[place])
                if place in refused
                else results[LOGS][place].values
            )
            missing = announced[at] if logs is None else _not_of_logs(announced[at], logs)
            if any(missing):
                raise DataMismatch(
                    f"block {asked.start_block + at}: its logs, asked for without a filter, do not fit its "
                    "logsBloom; try again, or ask another endpoint"
                )
            found.append(logs.filter(self._plan.matching_logs(logs)))
        return found

    def _logs_of_receipts(self, blocks: pa.StructArray, asked: BlockRange, one: BlockRange) -> pa.StructArray:
        at = one.start_block - asked.start_block
        if self._abilities.receipts_by_block:
            results, refusals = self._ask([((_RECEIPTS_BY_BLOCK, [hex(one.start_block)]), RECEIPTS)])
            if not refusals:
                return pc.list_flatten(pc.list_flatten(results[RECEIPTS]).field("logs"))
            error = self._client.reply_error(_RECEIPTS_BY_BLOCK, refusals[0])
            if not error.unsupported:
                raise error
            self._abilities.no_receipts_by_block()
        receipts = self._receipts_one_by_one(blocks.slice(at, 1), one)
        return pc.list_flatten(pc.list_flatten(receipts).field("logs"))


def _flat_logs(lists: pa.LargeListArray, refused: int, asked: BlockRange) -> pa.StructArray:
    """Return the logs of all answers, of which only those that were refused may be null."""
    if lists.null_count > refused:
        raise DataMismatch(
            f"the endpoint answers null for the logs of blocks {asked.start_block} to {asked.end_block}, or "
            "of some of them; a lagging backend? try again"
        )
    return pc.list_flatten(lists)


def _not_of_logs(bloom: bytes, logs: pa.StructArray) -> bytes:
    """Return what a bloom announces, and none of the logs has."""
    columns = [logs.field(name) for name in ("address", "topic0", "topic1", "topic2", "topic3")]
    held = int.from_bytes(blooms(columns, [0, len(logs)])[0].as_py())
    return (int.from_bytes(bloom) & ~held).to_bytes(len(bloom))


def _lists(counts: Sequence[int], items: pa.Array) -> pa.LargeListArray:
    """Return ``items`` cut into lists of so many."""
    ends = pc.cumulative_sum(pa.array(counts, pa.int64()))
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), ends])
    return pa.LargeListArray.from_arrays(offsets, items)
