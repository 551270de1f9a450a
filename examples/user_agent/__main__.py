"""Move the former class's files in, and ask the agents of two users.

See README.md beside this file.
"""

import argparse
from pathlib import Path

from examples.user_agent.agent_files import AgentFilesSource
from examples.user_agent.former import UserAgent as FormerUserAgent
from examples.user_agent.user_agent import UserAgent, memory_of_application
from langmem_isolated.importers import Import, Mapping

QUESTION = "What is my bank card?"


def write_former_files(folder: Path) -> None:
    """What the former class left behind of two users."""
    for user, secret in (("alice", "1234"), ("bob", "8080")):
        agent = FormerUserAgent(user, folder)
        agent.add("user", f"The PIN of my bank card is {secret}.")
        agent.add("assistant", "I keep it to myself.")
        agent.learn(f"{user.title()} drinks tea.")
        agent.save()


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser("python -m examples.user_agent", description=__doc__)
    parser.add_argument(
        "folder", nargs="?", type=Path, help="of files to move in; by default a new one"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be moved")
    given = parser.parse_args()
    folder = given.folder or Path("agents")
    if given.folder is None and not folder.exists():
        write_former_files(folder)
    with memory_of_application() as memory, AgentFilesSource(folder) as source:
        moving = Import(memory, source, Mapping(), unmapped="report", backup=False)
        plan = moving.plan()
        print(f"{plan.records} records of {len(source.files())} files, {plan.rejected} broken")
        if not given.dry_run:
            receipt = moving.run()
            print(receipt.status, dict(receipt.units))
            print(f"to undo it: langmem-isolated rollback {moving.receipt_path}")
        for user in ("alice", "bob", "mallory"):
            agent = UserAgent(user)
            print(f"{user}: {agent.recall(QUESTION)} {agent.facts}")


if __name__ == "__main__":
    main()
