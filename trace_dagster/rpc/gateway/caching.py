"""A pool's answers from the cache, and what of its answers is kept there."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from trace_dagster.rpc.gateway.agreement import Agreement
from trace_dagster.rpc.gateway.cache_keys import cache_key, is_immutable
from trace_dagster.rpc.gateway.heads import Heads
from trace_dagster.rpc.gateway.jsonrpc import Answer, Call
from trace_dagster.rpc.gateway.records import Usage
from trace_dagster.rpc.gateway.shared_cache import SharedCache

__all__ = ["CachedAnswers"]

_OK: Final = 200


class CachedAnswers:
    """Answers for one pool.

    Args:
        cache: shared by all pools.
        pool: the pool's name.
        chain_id: its chain.
        finality_blocks: so far below the head answers do not change.
        heads: where the pool's head is known from.
        agreement: whether endpoints disagree about what is final.
    """

    def __init__(
        self,
        cache: SharedCache,
        *,
        pool: str,
        chain_id: int,
        finality_blocks: int,
        heads: Heads,
        agreement: Agreement,
    ) -> None:
        self._cache, self._pool, self._chain_id = cache, pool, chain_id
        self._finality_blocks, self._heads, self._agreement = finality_blocks, heads, agreement
        self._disagreements = 0

    async def answer(
        self, calls: Sequence[Call], usage: Usage, ask: Callable[[Sequence[Call]], Awaitable[list[Answer]]]
    ) -> list[Answer]:
        """Return an answer to each of ``calls``, from the cache or by ``ask``, and keep what may be kept.

        Once endpoints disagree about what is final, nothing that was kept before is believed any more.
        """
        if self._heads.agreed is None:
            await self._heads.refresh()
        disagreements = self._agreement.disagreements
        await self._forget_what_is_in_doubt()
        keys = [self._key(call) for call in calls]
        kept: list[bytes | None] = [None] * len(keys)
        if self._disagreements == disagreements:
            kept = await self._cache.get(keys)
        missing = [at for at, value in enumerate(kept) if value is None]
        usage.cache_hits += len(calls) - len(missing)
        answers = [Answer(result=value) for value in kept]
        if missing:
            asked = await ask([calls[at] for at in missing])
            await self._forget_what_is_in_doubt()
            is_in_doubt = self._agreement.is_undecided or self._agreement.disagreements != disagreements
            for at, answer in zip(missing, asked, strict=True):
                answers[at] = answer
                if not is_in_doubt:
                    self._keep(keys[at], calls[at], answer)
        return answers

    async def _forget_what_is_in_doubt(self) -> None:
        """Empty the cache where endpoints were found to disagree since the last time."""
        known = self._agreement.disagreements
        if self._disagreements != known and await self._cache.clear():
            self._disagreements = known

    def _key(self, call: Call) -> bytes | None:
        return cache_key(self._pool, self._chain_id, call.method, call.params, self._final_block)

    def _keep(self, key: bytes | None, call: Call, answer: Answer) -> None:
        if key is None or answer.result is None or answer.status != _OK:
            return
        result = bytes(answer.result)
        if is_immutable(call.method, result, self._final_block):
            self._cache.put(key, result)

    @property
    def _final_block(self) -> int | None:
        head = self._heads.agreed
        return None if head is None else head - self._finality_blocks
