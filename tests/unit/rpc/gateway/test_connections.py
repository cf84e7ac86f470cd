"""Which connection is closed where there are too many."""

from trace_dagster.rpc.gateway.connections import Connection, Connections
from trace_dagster.rpc.gateway.listening import Room


class Door:
    """Connections of a test, and in which order they were closed."""

    def __init__(self, most: int) -> None:
        self.all = Connections(most)
        self.closed: list[str] = []

    def came(self, name: str, *, known: bool = False) -> Connection:
        """Take a connection in, with a request that was answered where it is known."""
        made = Connection(lambda: self.closed.append(name))
        self.all.came(made)
        if known:
            self.answered(made)
        return made

    def answered(self, connection: Connection) -> None:
        """Ask by it, and be answered."""
        self.all.asks(connection)
        connection.is_known = True
        self.all.rests(connection)


def test_strangers_go_first() -> None:
    """In the order in which they came, and whoever is known stays."""
    door = Door(3)
    door.came("worker", known=True)
    door.came("first")
    door.came("second")
    door.came("third")
    door.came("fourth")
    assert door.closed == ["first", "second"]


def test_who_asks_for_the_first_time_is_no_stranger() -> None:
    """A caller that has shown its token, and waits for its answer, stays."""
    door = Door(2)
    asking = door.came("asking")
    door.all.asks(asking)
    asking.is_known = True
    door.came("stranger")
    door.came("late", known=True)
    assert door.closed == ["stranger"]


def test_then_whoever_was_idle_for_longest() -> None:
    """Of known callers none that waits for an answer is closed; where all do, the new one is."""
    door = Door(3)
    one, two, three = (door.came(name, known=True) for name in ("one", "two", "three"))
    door.answered(one)
    door.all.asks(three)
    four = door.came("four", known=True)
    assert door.closed == ["two"]
    door.all.went(two)
    door.all.asks(one)
    door.all.asks(four)
    door.came("five")
    assert door.closed == ["two", "five"]


def test_connections_leave_files_for_the_rest() -> None:
    """However many exchanges with endpoints there may be, half of the files are for callers."""
    room = Room()
    room.files, room.backlog = 1024, 128
    assert room.most_connections(32) == 1024 - 64 - 128 - 64
    assert room.most_connections(100_000) == 512
    room.files = 1_000_000
    assert room.most_connections(32) == 5_000
