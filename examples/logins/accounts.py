"""Accounts with name and password, for the examples: a SQLite file of their own, by sqlite3 alone.

What a memory is scoped by is the account's id, which is random and never given to anybody else: who
takes the name of an account that is gone finds nothing.
"""

import hashlib
import secrets
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

from langmem_isolated import IsolatedMemory

_TABLES = """
CREATE TABLE IF NOT EXISTS accounts (
    name TEXT PRIMARY KEY, user_id TEXT NOT NULL UNIQUE, salt BLOB NOT NULL, hash BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS logins (
    digest BLOB PRIMARY KEY, user_id TEXT NOT NULL, expires REAL NOT NULL);
"""
LOGIN_SECONDS = 30 * 24 * 3600


class NameTaken(Exception):
    """Somebody has an account of this name."""


class Accounts:
    """Who there is, by name and password, and who is logged in, by a random token.

    Passwords are kept as scrypt hashes, tokens as SHA-256: a copy of the file logs nobody in.

    Args:
        file: Made if it is missing. Several processes of one machine may share it.
        work: How hard a password is to try, a power of two, the same for all that share the file.
            By default 16 MB and 0.2 s each, of what OWASP's cheat sheet on passwords recommends.
    """

    def __init__(self, file: str | Path, *, work: int = 2**14) -> None:
        self._file, self._work = file, work
        with closing(sqlite3.connect(file)) as database:
            database.executescript(_TABLES)
        # Compared with where a name is unknown, so that the time tells nobody which names exist.
        self._nobody = ("", secrets.token_bytes(16), bytes(64))

    def register(self, name: str, password: str) -> str:
        """Make an account and return its user id.

        Raises:
            NameTaken: There is one of this name.
        """
        user_id, salt = uuid4().hex, secrets.token_bytes(16)
        try:
            self._run(
                "INSERT INTO accounts VALUES (?, ?, ?, ?)",
                *(name, user_id, salt, self._hash(password, salt)),
            )
        except sqlite3.IntegrityError:
            raise NameTaken from None
        return user_id

    def checked(self, name: str, password: str) -> str | None:
        """The user id of who has the password; ``None`` if nobody does."""
        found = self._run("SELECT user_id, salt, hash FROM accounts WHERE name = ?", name)
        user_id, salt, expected = found[0] if found else self._nobody
        is_right = secrets.compare_digest(self._hash(password, salt), expected)
        return user_id if found and is_right else None

    def log_in(self, user_id: str) -> str:
        """A token that stands for the user for 30 days, or until it is logged out."""
        token = secrets.token_urlsafe(32)
        self._run("DELETE FROM logins WHERE expires < ?", time.time())
        self._run(
            "INSERT INTO logins VALUES (?, ?, ?)",
            *(_digest(token), user_id, time.time() + LOGIN_SECONDS),
        )
        return token

    def log_out(self, token: str) -> None:
        """Let a token stand for nobody."""
        self._run("DELETE FROM logins WHERE digest = ?", _digest(token))

    def user_of(self, token: str | None) -> str | None:
        """The user id for which a token stands."""
        found = self._run(
            "SELECT user_id FROM logins WHERE digest = ? AND expires > ?",
            *(_digest(token or ""), time.time()),
        )
        return found[0][0] if found else None

    def name_of(self, user_id: str) -> str | None:
        """The name of a user; ``None`` if there is no such account."""
        found = self._run("SELECT name FROM accounts WHERE user_id = ?", user_id)
        return found[0][0] if found else None

    def remove(self, user_id: str) -> None:
        """Remove an account and all its logins."""
        self._run("DELETE FROM logins WHERE user_id = ?", user_id)
        self._run("DELETE FROM accounts WHERE user_id = ?", user_id)

    def erase_with(self, memory: IsolatedMemory) -> None:
        """Have an account go when its user is erased: nobody is logged in to nothing."""
        memory.erasure.register(
            "accounts",
            lambda erased: self.remove(erased.user_id or ""),
            lambda erased: self.name_of(erased.user_id or "") is None,
        )

    def _hash(self, password: str, salt: bytes) -> bytes:
        return hashlib.scrypt(password.encode(), salt=salt, n=self._work, r=8, p=5)

    def _run(self, sql: str, *values: Any) -> list[Any]:
        # A connection for each statement: threads share none, and a table of accounts is small.
        with closing(sqlite3.connect(self._file, timeout=30)) as database, database:
            return database.execute(sql, values).fetchall()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
