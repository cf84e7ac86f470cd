"""The simulated chain: one consistent chain, wherever it is looked at."""

import doctest
from collections import Counter, defaultdict
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc
import pytest
import rlp
from eth_utils import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from trace_dagster.chain import checks
from trace_dagster.chain.headers import check_links
from trace_dagster.chain.ranges import BlockRange
from trace_dagster.chain.rows import normalised
from trace_dagster.chain.schemas import DATASETS, columns_of, schema_of
from trace_dagster.testing import SimulatedChain, simulated_chain
from trace_dagster.testing.simulated_chain import LAST_BLOCK
from trace_dagster.testing.simulated_transactions import traces_of

CHAIN = SimulatedChain(chain_id=10143)
RANGE = BlockRange(0, 199)
FAR = BlockRange(1_234_567_890, 1_234_567_989)


def column(table: pa.Table, name: str) -> list[object]:
    """Return a column as a list."""
    return table.column(name).to_pylist()


@given(st.integers(1, LAST_BLOCK))
@settings(max_examples=100, deadline=None)
def test_parents_link_everywhere(number: int) -> None:
    """A block's parent hash and its transactions' positions go on from the block before, wherever it lies."""
    before, block = CHAIN.block(number - 1), CHAIN.block(number)
    assert block.parent_hash == before.hash
    positions = [made.position for made in before.transactions + block.transactions]
    assert all(later == earlier + 1 for earlier, later in pairwise(positions))


def test_blocks_do_not_depend_on_the_order_of_asking() -> None:
    """Blocks asked for backwards on another object are the same blocks."""
    forwards = [CHAIN.block(number) for number in range(40)]
    other = SimulatedChain(chain_id=10143)
    assert [other.block(number) for number in reversed(range(40))][::-1] == forwards


def test_seed_and_chain_id_make_other_chains() -> None:
    """Another seed or chain id shares no hash."""
    chains = [CHAIN, SimulatedChain(chain_id=1), SimulatedChain(chain_id=10143, seed=1)]
    assert len({chain.block_hash(5) for chain in chains}) == 3
    assert len({chain.block(50).transactions for chain in chains}) == 3


@pytest.mark.parametrize("blocks", [RANGE, FAR], ids=["genesis", "far"])
def test_the_projects_own_checks_pass(blocks: BlockRange) -> None:
    """Links, rows, positions, membership and blooms hold as they must for real data."""
    headers = [CHAIN.header(number) for number in range(blocks.start_block, blocks.end_block + 1)]
    tables = CHAIN.tables(("blocks", "transactions", "logs", "traces"), blocks)
    check_links(headers, CHAIN.header(blocks.start_block - 1) if blocks.start_block else None)
    checks.check_blocks(tables["blocks"], headers)
    checks.check_transactions_alone(tables["transactions"], headers)
    checks.check_logs_alone(tables["logs"], headers, filtered=False)
    checks.check_traces(tables["traces"], headers)
    assert all(table.num_rows for table in tables.values())


@pytest.mark.parametrize("dataset", sorted(set(DATASETS) - {"blocks", "transactions", "logs"}))
def test_rows_belong_to_blocks_and_transactions(dataset: str) -> None:
    """Hashes and positions in the rows of every dataset are those of its blocks and transactions."""
    headers = [CHAIN.header(number) for number in range(100)]
    table = CHAIN.table(dataset, BlockRange(0, 99))
    if dataset == "trace_calls":  # its calls are of no transaction
        table = table.drop_columns(["transaction_index"])
    checks.check_membership(dataset, table, headers)


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_dataset_has_rows_in_the_projects_form(dataset: str) -> None:
    """Every dataset of Cryo's has rows, in the order and with the schema in which they are committed."""
    table = CHAIN.table(dataset, BlockRange(0, 99))
    assert table.num_rows
    assert normalised(dataset, table).equals(table)
    assert columns_of(dataset) is None or table.schema == schema_of(dataset)
    assert set(column(table, "chain_id")) == {10143}


@pytest.mark.parametrize("dataset", DATASETS)
def test_pieces_of_a_range_make_the_whole(dataset: str) -> None:
    """Ranges made apart hold the same rows as one range, also where there are none."""
    pieces = [CHAIN.table(dataset, piece) for piece in BlockRange(0, 39).split(7)]
    assert CHAIN.table(dataset, BlockRange(0, 0)).schema == pieces[0].schema
    assert pa.concat_tables(pieces).equals(CHAIN.table(dataset, BlockRange(0, 39)))


def test_gas_adds_up() -> None:
    """Cumulative gas grows by each transaction's gas, and ends at the block's, below its limit."""
    for block in CHAIN.blocks(RANGE):
        total = 0
        for made in block.transactions:
            total += made.gas_used
            assert made.cumulative_gas_used == total
            assert made.gas_used <= made.gas_limit
        assert block.gas_used == total <= block.gas_limit


def test_gas_prices_follow_the_base_fee() -> None:
    """Effective prices are the base fee and a tip, and only dynamic-fee transactions have maxima."""
    for block in CHAIN.blocks(RANGE):
        for made in block.transactions:
            tip = made.gas_price - block.base_fee_per_gas
            assert tip >= 0
            if made.transaction_type == 2:
                assert made.max_priority_fee_per_gas == tip
                assert made.max_fee_per_gas is not None
                assert made.max_fee_per_gas >= made.gas_price
            else:
                assert made.max_priority_fee_per_gas is made.max_fee_per_gas is None


def test_nonces_of_every_sender_count_up() -> None:
    """Each sender's nonces are 0, 1, 2..., and ``nonce`` tells what comes next."""
    sent: dict[bytes, list[int]] = defaultdict(list)
    for block in CHAIN.blocks(BlockRange(0, 600)):
        for made in block.transactions:
            sent[made.from_address].append(made.nonce)
    assert max(len(nonces) for nonces in sent.values()) > 1
    for sender, nonces in sent.items():
        assert nonces == list(range(len(nonces)))
        assert CHAIN.nonce(sender, 600) == len(nonces)
    assert CHAIN.nonce(bytes(20), 600) == 0


def test_the_chain_has_variety() -> None:
    """There are empty blocks, several transaction types, failures, creations, and 0 to 4 topics."""
    blocks = list(CHAIN.blocks(RANGE))
    transactions = [made for block in blocks for made in block.transactions]
    logs = [log for block in blocks for log in block.logs]
    assert any(not block.transactions for block in blocks)
    assert {made.transaction_type for made in transactions} == {0, 1, 2}
    assert {made.success for made in transactions} == {True, False}
    assert {len(log.topics) for log in logs} == {0, 3, 4}
    assert any(made.value >= 2**64 for made in transactions)
    assert any(made.to_address is None for made in transactions)


def test_failed_transactions_leave_nothing() -> None:
    """A failed transaction has no logs, and its root frame an error and no result."""
    for block in CHAIN.blocks(RANGE):
        for made in block.transactions:
            root = traces_of(made)[0]
            assert (root.error is None) == made.success
            if not made.success:
                assert made.logs == ()
                assert root.gas_used is root.output is None


def test_created_addresses_are_true() -> None:
    """A created contract's address follows from sender and nonce as on every EVM chain."""
    table = CHAIN.table("contracts", BlockRange(0, 999))
    made = CHAIN.table("transactions", BlockRange(0, 999))
    creations = made.filter(pc.is_null(made.column("to_address")))
    assert column(table, "contract_address") == [
        keccak(rlp.encode([sender, nonce]))[12:]
        for sender, nonce in zip(column(creations, "from_address"), column(creations, "nonce"), strict=True)
    ]
    assert column(table, "transaction_hash") == column(creations, "transaction_hash")
    assert [keccak(code) for code in column(table, "code")] == column(table, "code_hash")


def test_traces_agree_with_transactions() -> None:
    """Root frames repeat their transaction, and subtraces count the frames below each frame."""
    for block in CHAIN.blocks(RANGE):
        for made in block.transactions:
            frames = traces_of(made)
            root = frames[0]
            assert (root.from_address, root.to_address, root.value, root.input) == (
                made.from_address,
                made.to_address,
                made.value,
                made.input,
            )
            parents = Counter(frame.trace_address[:-1] for frame in frames[1:])
            assert all(frame.subtraces == parents[frame.trace_address] for frame in frames)
            assert 0 <= root.gas <= made.gas_limit


def test_token_transfers_are_the_transfer_events() -> None:
    """Every Transfer event is one row of erc20_transfers or erc721_transfers, told apart by its topics."""
    tables = CHAIN.tables(("logs", "erc20_transfers", "erc721_transfers"), RANGE)
    transfers = [
        row
        for row in tables["logs"].to_pylist()
        if row["topic0"] == keccak(text="Transfer(address,address,uint256)")
    ]
    for dataset, is_nft in (("erc20_transfers", False), ("erc721_transfers", True)):
        expected = [
            (row["block_number"], row["log_index"], row["topic1"][12:], row["topic2"][12:])
            for row in transfers
            if (row["topic3"] is not None) == is_nft
        ]
        rows = tables[dataset].to_pylist()
        assert expected == [
            (row["block_number"], row["log_index"], row["from_address"], row["to_address"]) for row in rows
        ]


def test_balance_differences_only_burn_the_base_fee() -> None:
    """Over a transaction, balances lose exactly the base fee of its gas."""
    base_fees = {block.number: block.base_fee_per_gas for block in CHAIN.blocks(RANGE)}
    gas = {made.hash: made.gas_used for block in CHAIN.blocks(RANGE) for made in block.transactions}
    lost: Counter[tuple[int, bytes]] = Counter()
    for row in CHAIN.table("balance_diffs", RANGE).to_pylist():
        lost[row["block_number"], row["transaction_hash"]] += int(row["from_value_string"]) - int(
            row["to_value_string"]
        )
    assert lost == {(number, hash_): base_fees[number] * gas[hash_] for number, hash_ in lost}
    assert len(lost) == len(gas)


def test_filters_keep_only_what_they_name() -> None:
    """Filters by address, topic and sender keep exactly the rows that have the value."""
    logs = CHAIN.table("logs", RANGE)
    address, topic = column(logs, "address")[0], column(logs, "topic0")[0]
    kept = CHAIN.table("logs", RANGE, {"address": [f"0x{address.hex()}"], "topic0": [f"0x{topic.hex()}"]})
    assert kept.equals(
        logs.filter(
            pc.and_(pc.equal(logs.column("address"), address), pc.equal(logs.column("topic0"), topic))
        )
    )
    made = CHAIN.table("transactions", RANGE)
    sender = column(made, "from_address")[0]
    kept = CHAIN.table("transactions", RANGE, {"from_address": [f"0x{sender.hex()}"], "topic0": ["0x00"]})
    assert kept.equals(made.filter(pc.equal(made.column("from_address"), sender)))


def test_state_datasets_give_the_addresses_asked_for() -> None:
    """Nonces at blocks are those of the filter's addresses, one row a block and address."""
    addresses = sorted(CHAIN.accounts.account(index) for index in (5, 6, 7))
    table = CHAIN.table("nonces", RANGE, {"address": [f"0x{address.hex()}" for address in addresses]})
    assert table.num_rows == 3 * RANGE.blocks
    assert column(table, "address")[:3] == addresses
    assert column(table, "nonce")[-3:] == [CHAIN.nonce(address, RANGE.end_block) for address in addresses]


def test_wrong_arguments_are_refused() -> None:
    """A dataset that does not exist, or a block off the chain, is an error with its name or number."""
    with pytest.raises(ValueError, match="'blokcs' is no dataset of Cryo"):
        CHAIN.table("blokcs", RANGE)
    with pytest.raises(ValueError, match="block 2500000001 is not on the simulated chain"):
        CHAIN.block(LAST_BLOCK + 1)
    with pytest.raises(ValueError, match="block -1 is not on"):
        CHAIN.block(-1)


def test_documentation_examples_run() -> None:
    """The examples in the module's documentation give what they say."""
    result = doctest.testmod(simulated_chain)
    assert result.attempted > 2
    assert result.failed == 0
