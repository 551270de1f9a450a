"""Liveness of TCP connections: when a host that vanished without a word is given up.

Without a word means that no packet says so: a machine lost its power, a firewall its state. Linux
waits for 2 hours before it asks an idle peer, and for 15 minutes for what it has sent.
"""

# By what part of `timeout` a peer that does not answer is given up, and by what part a host to
# which a connection is being made, where there are others.
_PART, _PART_OF_HOST = 3, 6
_PROBES = 3


class Liveness:
    """What both ends of a connection are told, so that each notices that the other is gone.

    Args:
        timeout: Seconds to wait for a server.
        fails_over: Whether there are other hosts.
    """

    __slots__ = ("of_client", "of_server")

    def __init__(self, timeout: float, fails_over: bool) -> None:
        noticed = max(2.0, timeout / _PART)
        # Half of the time nothing is asked, in the other half three times.
        told = {
            "keepalives_idle": max(1, round(noticed / 2)),
            "keepalives_interval": max(1, round(noticed / 2 / _PROBES)),
            "keepalives_count": _PROBES,
        }
        unanswered = {"tcp_user_timeout": round(noticed * 1000)}
        wait = timeout / _PART_OF_HOST if fails_over else timeout
        self.of_client: dict[str, int] = {
            "connect_timeout": max(2, int(wait)),
            **told,
            **unanswered,
        }
        """For libpq; a URL may say otherwise."""
        of_server = {f"tcp_{name}": value for name, value in told.items()} | unanswered
        self.of_server = " ".join(f"-c {name}={value}" for name, value in of_server.items())
        """For the server's settings of one connection: it lets go of the locks of who vanished."""
