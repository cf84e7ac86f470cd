"""Which rules the blocks of a chain keep, and so which checks hold there."""

from dataclasses import dataclass
from typing import Final

__all__ = ["ChainProfile", "profile_of"]


@dataclass(frozen=True)
class ChainProfile:
    """The rules of one family of chains.

    Every field but the name is None where the rule holds, else why it does not: such a check is not made, and
    the reason stands in the manifest.

    Attributes:
        name: of the family.
        gas: a receipt's cumulative gas is the sum of the gas of the transactions up to it, and the last one's
            is the block's gas.
        bloom_announces_all: the block's logsBloom names every log of the block, and not only some.
        zero_bloom: a logsBloom of zeros says that the block has no logs.
        empty_lists: a block without transactions has the transactionsRoot of the empty trie.
        withdrawals_root: and one without withdrawals its withdrawalsRoot, where it has one.
    """

    name: str
    gas: str | None = None
    bloom_announces_all: str | None = None
    zero_bloom: str | None = None
    empty_lists: str | None = None
    withdrawals_root: str | None = None


_ETHEREUM: Final = ChainProfile("ethereum")
_OP_STACK: Final = ChainProfile(
    "op-stack", withdrawals_root="the withdrawalsRoot is that of a contract's storage since Isthmus"
)
_ARBITRUM: Final = ChainProfile("arbitrum")
_GNOSIS: Final = ChainProfile("gnosis")
_MONAD: Final = ChainProfile("monad")
_STATE_SYNC: Final = "a state-sync transaction has a receipt that the block does not account for"
_POLYGON: Final = ChainProfile("polygon", gas=_STATE_SYNC, bloom_announces_all=_STATE_SYNC)

_BY_CHAIN_ID: Final = {
    **dict.fromkeys((1, 3, 4, 5, 1337, 17000, 31337, 560048, 11155111), _ETHEREUM),
    **dict.fromkeys(
        (10, 130, 204, 252, 480, 1868, 8453, 34443, 57073, 81457, 84532, 7777777, 11155420), _OP_STACK
    ),
    **dict.fromkeys((42161, 42170, 421614), _ARBITRUM),
    **dict.fromkeys((137, 80002), _POLYGON),
    **dict.fromkeys((100, 10200), _GNOSIS),
    **dict.fromkeys((143, 10143), _MONAD),
}


def profile_of(chain_id: int) -> ChainProfile:
    """Return the profile of a chain; of one that is not known, only what every EVM chain keeps."""
    known = _BY_CHAIN_ID.get(chain_id)
    if known is not None:
        return known
    headers = f"the rules of headers of chain {chain_id} are not known"
    return ChainProfile(
        "unknown",
        gas=f"the gas rules of chain {chain_id} are not known",
        zero_bloom=headers,
        empty_lists=headers,
        withdrawals_root=headers,
    )
