"""Sources of people: exports of chat products and messengers."""

from langmem_isolated.importers.registry import SourceOption, SourceSpec

_HERE = "langmem_isolated.importers.people"
_BRANCHES = SourceOption(
    "branches",
    "visible: what is seen in the product; all: a session of every branch that was rewritten, too.",
    "visible",
)
_ME = SourceOption(
    "me",
    "A name or id of the export's owner, as it is written there; several times. What others wrote "
    "begins with their name.",
    is_repeated=True,
)
_FILE = "The file, or the folder or zip with it."
_WHOSE = "--user ann --module chat"

SPECS: tuple[SourceSpec, ...] = (
    SourceSpec(
        "chatgpt",
        "Conversations of ChatGPT, from OpenAI's data export, whole or in shards.",
        _FILE,
        f"{_HERE}.chatgpt:ChatGptExport",
        (_BRANCHES,),
        (
            f"chatgpt conversations.json {_WHOSE}",
            f"chatgpt export.zip --branches all {_WHOSE}",
        ),
    ),
    SourceSpec(
        "claude",
        "Conversations of Claude, from Anthropic's data export.",
        _FILE,
        f"{_HERE}.claude:ClaudeExport",
        (_BRANCHES,),
        (f"claude conversations.json {_WHOSE}",),
    ),
    SourceSpec(
        "open-webui",
        "Chats of Open WebUI, from its JSON export or its database.",
        "The JSON file, or webui.db.",
        f"{_HERE}.open_webui:OpenWebUiExport",
        (_BRANCHES,),
        (
            f"open-webui chats.json {_WHOSE}",
            "open-webui webui.db --user-column user_id --module chat",
        ),
    ),
    SourceSpec(
        "librechat",
        "Conversations of LibreChat, from its JSON export, or mongoexport of its messages.",
        "The JSON file or JSON lines, or a folder of them.",
        f"{_HERE}.librechat:LibreChatExport",
        (_BRANCHES,),
        (f"librechat conversation.json {_WHOSE}",),
    ),
    SourceSpec(
        "sharegpt",
        "Conversations in ShareGPT's layout, from and value.",
        "A JSON list or JSON lines.",
        f"{_HERE}.sharegpt:ShareGptExport",
        (),
        (f"sharegpt conversations.json {_WHOSE}",),
    ),
    SourceSpec(
        "openai-jsonl",
        "Conversations of messages with role and content, as OpenAI's files have them.",
        "JSON lines with a conversation each, or a JSON list of them.",
        f"{_HERE}.openai_jsonl:OpenAiMessages",
        (),
        (f"openai-jsonl training.jsonl {_WHOSE}",),
    ),
    SourceSpec(
        "whatsapp",
        "A chat of WhatsApp, as a phone of either kind exports it.",
        "The text file, or the folder or zip with it.",
        f"{_HERE}.whatsapp:WhatsAppExport",
        (
            _ME,
            SourceOption("timezone", "Where the phone was, such as Europe/Rome.", "UTC"),
            SourceOption(
                "dates", "day-first, month-first or year-first; by default found from all dates."
            ),
        ),
        (f"whatsapp _chat.txt --me Ann --timezone Europe/Rome {_WHOSE}",),
    ),
    SourceSpec(
        "telegram",
        "Chats of Telegram, from the JSON export of Telegram Desktop.",
        "result.json, or the folder or zip with it.",
        f"{_HERE}.telegram:TelegramExport",
        (_ME,),
        (f"telegram result.json --me Ann {_WHOSE}",),
    ),
    SourceSpec(
        "discord",
        "Channels of Discord, from its data package or DiscordChatExporter.",
        "The package as a folder or zip, or a JSON file of DiscordChatExporter.",
        f"{_HERE}.discord:DiscordExport",
        (_ME,),
        (f"discord package.zip {_WHOSE}", f"discord channel.json --me ann {_WHOSE}"),
    ),
    SourceSpec(
        "slack",
        "Channels of Slack, from the export of a workspace.",
        "The zip, or the folder that it was unpacked to.",
        f"{_HERE}.slack:SlackExport",
        (_ME,),
        (f"slack export.zip --me Ann {_WHOSE}",),
    ),
    SourceSpec(
        "mem",
        "Memory of another program in the portable .mem format, version 1.",
        "The bundle, a folder or a zip of it.",
        f"{_HERE}.mem_bundle:MemBundle",
        (),
        (f"mem memory.mem {_WHOSE}",),
    ),
)
