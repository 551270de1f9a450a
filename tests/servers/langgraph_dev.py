"""Runs `langgraph dev` for tests: on a free port, with the example's files, ended in any case."""

import json
import shutil
from base64 import b64encode
from pathlib import Path
from typing import Any

from tests.servers.program import PROJECT, Program

EXAMPLE = PROJECT / "examples" / "langgraph_server"
PROBE = Path(__file__).with_name("probe.py")
_COMMAND = (
    *("langgraph_cli", "dev", "--no-browser", "--no-reload"),
    *("--n-jobs-per-worker", "8", "--port", "{port}"),
)


class LangGraphDev(Program):
    """The example's server, with the probe as a further graph."""

    def __init__(self, folder: Path, database: str, root_key: bytes, **changes: Any) -> None:
        shutil.copytree(EXAMPLE, folder)
        shutil.copy(PROBE, folder / "probe.py")
        config = json.loads((EXAMPLE / "langgraph.json").read_text())
        config["graphs"]["probe"] = "./probe.py:graph"
        changed = {key: value for key, value in {**config, **changes}.items() if value is not None}
        (folder / "langgraph.json").write_text(json.dumps(changed))
        environment = {
            "LANGMEM_ISOLATED_ROOT_KEY": b64encode(root_key).decode(),
            "LANGMEM_ISOLATED_DATABASE": database,
            "LANGGRAPH_CLI_NO_ANALYTICS": "1",
            "LANGGRAPH_DISABLE_FILE_PERSISTENCE": "true",
            "LANGSMITH_TRACING": "false",
            "LANGCHAIN_TRACING_V2": "false",
            "NO_COLOR": "1",
        }
        super().__init__(_COMMAND, folder, "/ok", environment)
