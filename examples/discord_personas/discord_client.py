"""Discord itself: discord.py brings the messages, and the bot answers them."""

import discord

from examples.discord_personas.bot import PersonaBot


class DiscordClient(discord.Client):
    """Hands on direct messages, and messages in servers that mention the bot.

    Discord gives the text of those without the privileged intent for messages.

    Args:
        personas: What answers.
    """

    def __init__(self, personas: PersonaBot) -> None:
        super().__init__(
            intents=discord.Intents.default(),
            # What somebody had a persona remember must not wake a whole server.
            allowed_mentions=discord.AllowedMentions.none(),
        )
        self._personas = personas

    async def on_message(self, message: discord.Message) -> None:
        """Answer what people write to the bot; other bots are not answered."""
        is_addressed = message.guild is None or self.user in message.mentions
        if is_addressed and not message.author.bot:
            await self._personas.on_message(message)
