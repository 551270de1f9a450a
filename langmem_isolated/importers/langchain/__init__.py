"""Sources of LangChain: chat histories in databases, files and servers."""

from langmem_isolated.importers.registry import SourceOption, SourceSpec

_HOME = "langmem_isolated.importers.langchain"

_OWNER_COLUMNS = SourceOption(
    "columns",
    "a column that says whose a session is, besides that of --user-column and its like",
    default=(),
    is_repeated=True,
)
_SCHEMA = SourceOption("schema", "the table's schema, where it is not on the search path")
_HISTORY_KEY = SourceOption("history_key", "where the messages are", "History")
_SESSION_KEY = SourceOption("session_key", "where the session's id is", "SessionId")

SPECS: tuple[SourceSpec, ...] = (
    SourceSpec(
        "sql-chat-history",
        "SQLChatMessageHistory of langchain-community: sessions of a table of SQLite or PostgreSQL",
        "the path of an SQLite file, or postgresql://user@host/name",
        f"{_HOME}.sql_chat_history:SqlChatHistorySource",
        (
            SourceOption("table", "the table's name", "message_store"),
            _SCHEMA,
            SourceOption("session_column", "the column with the session's id", "session_id"),
            SourceOption("message_column", "the column with the message", "message"),
            SourceOption("order_column", "the column that a session is ordered by", "id"),
            SourceOption("time_column", "the column with the time of writing, if there is one"),
            _OWNER_COLUMNS,
        ),
        (r"sql-chat-history chats.db --module tutor --id-pattern '(?P<user>\w+):(?P<session>.+)'",),
    ),
    SourceSpec(
        "postgres-chat-history",
        "PostgresChatMessageHistory of langchain-postgres: sessions of a table of PostgreSQL",
        "postgresql://user@host/name",
        f"{_HOME}.sql_chat_history:PostgresChatHistorySource",
        (SourceOption("table", "the table's name", "chat_history"), _SCHEMA, _OWNER_COLUMNS),
        ("postgres-chat-history postgresql://reader@host/app --module tutor --map owners.csv",),
    ),
    SourceSpec(
        "file-chat-history",
        "FileChatMessageHistory of langchain-community: a JSON file for each session",
        "a file, or a folder of them",
        f"{_HOME}.file_chat_history:FileChatHistorySource",
        (
            SourceOption("pattern", "which files of a folder are sessions", "*.json"),
            SourceOption("encoding", "of the files", "utf-8"),
        ),
        ("file-chat-history chats/ --module tutor --id-pattern '(?P<user>[^/]+)/(?P<session>.+)'",),
    ),
    SourceSpec(
        "redis",
        "RedisChatMessageHistory of langchain-community (lists) and of langchain-redis (documents)",
        "redis://user:password@host:port/number",
        f"{_HOME}.redis:RedisSource",
        (
            SourceOption("layout", "lists or documents; both by default"),
            SourceOption("key_prefix", "by default message_store: for lists, chat: for documents"),
        ),
        (r"redis redis://host/0 --module tutor --id-pattern '(?P<user>[^:]+):(?P<session>.+)'",),
    ),
    SourceSpec(
        "mongodb",
        "MongoDBChatMessageHistory of langchain-mongodb and langchain-community",
        "mongodb://user:password@host:port",
        f"{_HOME}.mongodb:MongoDBSource",
        (
            SourceOption("source_database", "the database's name", "chat_history"),
            SourceOption("collection", "the collection's name", "message_store"),
            _SESSION_KEY,
            _HISTORY_KEY,
            _OWNER_COLUMNS,
        ),
        ("mongodb mongodb://host --module tutor --map owners.csv",),
    ),
    SourceSpec(
        "dynamodb",
        "DynamoDBChatMessageHistory of langchain-community: an item for each session",
        "the table's name",
        f"{_HOME}.dynamodb:DynamoDBSource",
        (
            _SESSION_KEY,
            _HISTORY_KEY,
            SourceOption("ttl_key", "the attribute with the end of an item's life", "expireAt"),
            SourceOption("region", "of AWS, where it is not in its settings"),
            SourceOption("endpoint", "the URL of another server than AWS"),
        ),
        ("dynamodb chats --region eu-central-1 --module tutor --map owners.csv",),
    ),
)
