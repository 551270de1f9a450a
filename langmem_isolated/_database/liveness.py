"""Liveness of TCP connections: when a host that vanished without a word is given up.

Without a word means that no packet says so: a machine lost its power, a firewall its state. Linux
waits for 2 hours before it asks an idle peer, and for 15 minutes for what it has sent.

A server may hang as well while its machine answers for it, as where its disk hangs: of that TCP
tells nothing.
"""

import select
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar
from weakref import ref

T = TypeVar("T")

# By what part of `timeout` a peer that does not answer is given up, and by what part a host to
# which a connection is being made, where there are others.
_PART, _PART_OF_HOST = 3, 6
_PROBES = 3
# Linux refuses a connection that is to be idle for more than 32,767 s.
_MOST_SECONDS = 3600
# psycopg's READY_NONE, which it sends to what waits every 0.1 s.
_NOTHING = 0


class Liveness:
    """What both ends of a connection are told, so that each notices that the other is gone.

    Args:
        timeout: Seconds to wait for a server.
        fails_over: Whether there are other hosts.
    """

    __slots__ = ("of_client", "of_server")

    def __init__(self, timeout: float, fails_over: bool) -> None:
        noticed = min(max(2.0, timeout / _PART), _MOST_SECONDS)
        # Half of the time nothing is asked, in the other half three times.
        told = {
            "keepalives_idle": max(1, round(noticed / 2)),
            "keepalives_interval": max(1, round(noticed / 2 / _PROBES)),
            "keepalives_count": _PROBES,
        }
        unanswered = {"tcp_user_timeout": round(noticed * 1000)}
        wait = timeout / _PART_OF_HOST if fails_over else timeout
        self.of_client: dict[str, int] = {
            "connect_timeout": max(2, min(int(wait), _MOST_SECONDS)),
            **told,
            **unanswered,
        }
        """For libpq; a URL may say otherwise."""
        of_server = {f"tcp_{name}": value for name, value in told.items()} | unanswered
        self.of_server = " ".join(f"-c {name}={value}" for name, value in of_server.items())
        """For the server's settings of one connection: it lets go of the locks of who vanished."""


def bound_silence(connection: Any, seconds: float, error: Callable[[str], Exception]) -> None:
    """Have a connection of psycopg closed by a wait in which the server says nothing for so long.

    Args:
        connection: Which.
        seconds: How long.
        error: Made of what is told then.
    """
    which = ref(connection)  # it would not be freed before the next run of the collector

    def wait(waiting: Generator[int, int, T], *args: Any, **options: Any) -> T:
        bound: Any = which()
        result: T = type(bound).wait(bound, heard(waiting), *args, **options)
        return result

    def give_up() -> None:
        bound: Any = which()
        bound.close()
        raise error(f"the server said nothing for {seconds} s")

    def heard(waiting: Generator[int, int, T]) -> Generator[int, int, T]:
        last = time.monotonic()
        try:
            wanted = next(waiting)
            while True:
                ready = yield wanted
                now = time.monotonic()
                if ready != _NOTHING:
                    last = now
                elif now - last > seconds:
                    give_up()
                wanted = waiting.send(ready)
        except StopIteration as stop:
            result: T = stop.value
            return result

    connection.wait = wait


def is_readable(socket: int) -> bool:
    """Whether there is something to read from a socket, or the end of it."""
    if not hasattr(select, "poll"):  # Windows, where select takes any number
        return bool(select.select([socket], [], [], 0)[0])
    poll = select.poll()
    poll.register(socket, select.POLLIN)
    return bool(poll.poll(0))
