"""Options of a database: checked before anything is opened."""

from langmem_isolated._runtime.arguments import kind_of, seconds, whole_number


def check_options(synchronous: str, pool_size: int, timeout: float, auto_upgrade: bool) -> None:
    """Refuse options of a database that are none.

    Raises:
        TypeError: One has another type.
        ValueError: One is out of its range.
    """
    whole_number("pool_size", pool_size, least=1, advice="It is the number of connections.")
    seconds("timeout", timeout, advice="Give seconds to wait for a lock or the server.")
    if synchronous not in ("FULL", "NORMAL"):
        raise ValueError(
            f'synchronous must be "FULL" or "NORMAL", got another {kind_of(synchronous)}. Leave it '
            "out for FULL, which survives loss of power."
        )
    if not isinstance(auto_upgrade, bool):
        raise TypeError(
            f"auto_upgrade must be True or False, got {kind_of(auto_upgrade)}. Give False where "
            "this role may not make tables."
        )


def milliseconds(timeout: float) -> int:
    """A timeout as both databases take it; SQLite turns what is larger into none at all."""
    return min(int(timeout * 1000), 2**31 - 1)
