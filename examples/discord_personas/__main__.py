"""Answer what a terminal or a file says, or with DISCORD_TOKEN set what Discord says.

See README.md beside this file.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator

from examples.discord_personas.bot import PersonaBot
from examples.discord_personas.terminal import messages_from
from examples.offline_model import model_of_environment
from langmem_isolated import IsolatedMemory


async def lines() -> AsyncIterator[str]:
    """What is typed, or what a file has, line by line."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        yield line


async def in_terminal(bot: PersonaBot, user: int) -> None:
    """Answer each line in turn."""
    async for message in messages_from(lines(), user):
        await bot.on_message(message)
        sys.stdout.flush()


async def on_discord(bot: PersonaBot, token: str) -> None:
    """Answer on Discord until the program is stopped."""
    from examples.discord_personas.discord_client import (  # noqa: PLC0415 - needs discord.py
        DiscordClient,
    )

    async with DiscordClient(bot) as client:
        await client.start(token)


async def main() -> None:
    """Serve one or the other."""
    parser = argparse.ArgumentParser("python -m examples.discord_personas", description=__doc__)
    parser.add_argument("--user", type=int, default=1001, help="who types, in a terminal")
    given = parser.parse_args()
    async with IsolatedMemory.from_environment() as memory:
        bot = PersonaBot(memory, model_of_environment())
        if token := os.environ.get("DISCORD_TOKEN"):
            await on_discord(bot, token)
        else:
            await in_terminal(bot, given.user)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except ValueError as refused:
        sys.exit(str(refused))
