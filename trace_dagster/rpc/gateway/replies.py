"""How many bytes of endpoints' replies are held at once, until callers have taken what was made of them."""

from typing import Final

__all__ = ["SMALL_BYTES", "Held", "NoRoom", "ReplyRoom"]

SMALL_BYTES: Final = 64 * 2**10
"""Of smaller replies no account is taken: there are only so many exchanges at a time."""


class NoRoom(Exception):
    """A reply does not fit beside those that are held already."""


class ReplyRoom:
    """Room for the replies that one gateway holds.

    Args:
        most_bytes: of all together.

    Attributes:
        held_bytes: of those that are held.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self.held_bytes = 0

    def take(self, count: int) -> None:
        """Hold so many bytes more.

        Raises:
            NoRoom: they do not fit.
        """
        if self.held_bytes + count > self._most_bytes:
            raise NoRoom(
                f"a reply does not fit beside the {self.held_bytes} bytes of others that are held, at most "
                f"{self._most_bytes} (limits.max_reply_bytes_at_once); ask again later, or for less at once"
            )
        self.held_bytes += count

    def give_back(self, count: int) -> None:
        """Hold so many bytes less."""
        self.held_bytes -= count


class Held:
    """What is held of replies for one request of a caller.

    Args:
        room: where.
    """

    __slots__ = ("_bytes", "_room")

    def __init__(self, room: ReplyRoom) -> None:
        self._room, self._bytes = room, 0

    def take(self, count: int) -> None:
        """Hold so many bytes more.

        Raises:
            NoRoom: they do not fit.
        """
        self._room.take(count)
        self._bytes += count

    def drop(self, reply: bytes) -> None:
        """Hold a reply no more, of which account was taken as it came."""
        if len(reply) > SMALL_BYTES:
            self.give_back(len(reply))

    def give_back(self, count: int | None = None) -> None:
        """Hold so many bytes less, or nothing any more."""
        count = self._bytes if count is None else min(count, self._bytes)
        self._bytes -= count
        self._room.give_back(count)
