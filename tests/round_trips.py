"""A proxy in front of a test server that counts how often a client waits for an answer."""

import socket
import threading
from contextlib import suppress
from typing import Self
from urllib.parse import urlsplit, urlunsplit


class CountingProxy:
    """Passes connections on to a server, and counts round trips: questions behind an answer.

    What a client sends before it has an answer belongs to one question, as in a pipeline.

    Args:
        url: That of the server.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._server = parts.hostname, parts.port
        self._listening = socket.create_server(("127.0.0.1", 0))
        port = self._listening.getsockname()[1]
        login = parts.netloc.rpartition("@")[0]
        self.url = urlunsplit(parts._replace(netloc=f"{login}@127.0.0.1:{port}".lstrip("@")))
        self.count = 0
        self._lock = threading.Lock()
        self._sockets = [self._listening]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(self._server)
                self._sockets += client, server
                is_asking = threading.Event()
                for way in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pass, args=(*way, is_asking), daemon=True).start()

    def _pass(
        self, source: socket.socket, target: socket.socket, asks: bool, is_asking: threading.Event
    ) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if not asks:
                    is_asking.clear()
                elif not is_asking.is_set():
                    is_asking.set()
                    with self._lock:
                        self.count += 1
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
