"""Discord on this machine: enough of its gateway and its HTTP for the real client to work."""

import asyncio
import itertools
import json
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import yarl
from aiohttp import web

from examples.discord_personas.bot import PersonaBot

with warnings.catch_warnings():
    # discord.py imports a module for sound that Python has removed since.
    warnings.simplefilter("ignore", DeprecationWarning)
    import discord

    from examples.discord_personas.discord_client import DiscordClient

BOT = {"id": "9000", "username": "personas", "discriminator": "0", "avatar": None, "bot": True}
_APPLICATION = {
    "id": "1",
    "name": "personas",
    **dict.fromkeys(("description", "verify_key"), ""),
    **dict.fromkeys(("bot_public", "bot_require_code_grant"), False),
    "icon": None,
    "flags": 0,
    "owner": BOT,
}
_numbers = itertools.count(1_000_000)


def message(author: int, content: str, **more: Any) -> dict[str, Any]:
    """A message as the gateway tells of it: direct, unless it has a ``guild_id``."""
    person = {"id": str(author), "username": f"user{author}", "discriminator": "0", "avatar": None}
    return {
        "id": str(next(_numbers)),
        "channel_id": str(author + 10_000),
        "author": person,
        "content": content,
        "timestamp": "2026-03-02T16:20:00+00:00",
        "edited_timestamp": None,
        "type": 0,
        **dict.fromkeys(("tts", "mention_everyone", "pinned"), False),
        **{name: [] for name in ("mentions", "mention_roles", "attachments", "embeds")},
        **more,
    }


def guild(number: int, channel: int) -> dict[str, Any]:
    """A server with one channel of text."""
    room = {"id": str(channel), "type": 0, "name": "general", "position": 0}
    room |= {"permission_overwrites": [], "parent_id": None}
    everyone = {"id": str(number), "name": "@everyone", "permissions": "0", "position": 0}
    everyone |= {"color": 0, "colors": {"primary_color": 0}, "hoist": False, "managed": False}
    return {
        "id": str(number),
        "name": "School",
        "owner_id": "1",
        "member_count": 2,
        "channels": [room],
        "roles": [{**everyone, "mentionable": False}],
        **{name: [] for name in ("members", "threads", "emojis", "stickers", "features")},
    }


def _json(told: dict[str, Any]) -> web.Response:
    # As Discord does, without a charset: discord.py would not read it as JSON.
    return web.Response(body=json.dumps(told).encode(), content_type="application/json")


class DiscordServer:
    """Tells one client of messages, and keeps what that client sends."""

    def __init__(self, guilds: list[dict[str, Any]]) -> None:
        self.sent: asyncio.Queue[tuple[int, dict[str, Any]]] = asyncio.Queue()
        self._to_tell = asyncio.Queue[dict[str, Any]]()
        self._guilds = guilds

    async def answer(self, told: dict[str, Any]) -> tuple[int, str]:
        """Have the client hear of a message; to which channel it sends what next."""
        self.tell(told)
        channel, sent = await asyncio.wait_for(self.sent.get(), 30)
        return channel, sent["content"]

    def tell(self, told: dict[str, Any]) -> None:
        """Have the client hear of a message."""
        self._to_tell.put_nowait({"op": 0, "t": "MESSAGE_CREATE", "d": told})

    def application(self) -> web.Application:
        async def myself(_: web.Request) -> web.Response:
            return _json(BOT)

        async def application(_: web.Request) -> web.Response:
            return _json(_APPLICATION)

        async def keep(request: web.Request) -> web.Response:
            channel, sent = request.match_info["channel"], await request.json()
            self.sent.put_nowait((int(channel), sent))
            kept = message(9000, sent["content"], channel_id=channel) | {"author": BOT}
            return _json(kept)

        app = web.Application()
        app.router.add_get("/users/@me", myself)
        app.router.add_get("/oauth2/applications/@me", application)
        app.router.add_post("/channels/{channel}/messages", keep)
        app.router.add_get("/gateway/", self._gateway)
        return app

    async def _gateway(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_json({"op": 10, "d": {"heartbeat_interval": 45_000}})
        await socket.receive_json()
        ready = {"user": BOT, "guilds": [], "session_id": "1", "_trace": []}
        ready |= {"resume_gateway_url": "ws://127.0.0.1", "application": {"id": "1", "flags": 0}}
        events = [{"op": 0, "t": "READY", "d": ready}]
        events += [{"op": 0, "t": "GUILD_CREATE", "d": one} for one in self._guilds]
        for number in itertools.count(1):
            event = events.pop(0) if events else await self._to_tell.get()
            if not event:
                break
            await socket.send_json(event | {"s": number})
        return socket

    def close(self) -> None:
        """Let the gateway end, for which the server waits."""
        self._to_tell.put_nowait({})


@asynccontextmanager
async def discord_server(
    monkeypatch: pytest.MonkeyPatch, *guilds: dict[str, Any]
) -> AsyncIterator[DiscordServer]:
    """A server that discord.py takes for Discord."""
    server = DiscordServer([*guilds])
    runner = web.AppRunner(server.application(), shutdown_timeout=0)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        place = f"127.0.0.1:{runner.addresses[0][1]}"
        monkeypatch.setattr(discord.http.Route, "BASE", f"http://{place}")
        gateway = yarl.URL(f"ws://{place}/gateway/")
        monkeypatch.setattr(discord.gateway.DiscordWebSocket, "DEFAULT_GATEWAY", gateway)
        yield server
    finally:
        server.close()
        await runner.cleanup()


@asynccontextmanager
async def connected(
    bot: PersonaBot, monkeypatch: pytest.MonkeyPatch, *guilds: dict[str, Any]
) -> AsyncIterator[DiscordServer]:
    """The real client, logged in and listening, in front of a server of this machine."""
    async with discord_server(monkeypatch, *guilds) as server, DiscordClient(bot) as client:
        # Seconds that it waits for more servers of the bot, by default 2.
        client._connection.guild_ready_timeout = 0.1
        running = asyncio.create_task(client.start("a token of this machine"))
        ready = asyncio.create_task(client.wait_until_ready())
        await asyncio.wait({running, ready}, timeout=30, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        yield server
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
