"""Examples of commands, as `--help` shows them below the options."""


def shown(*commands: str) -> str:
    """An epilog that shows what may be typed; each command begins behind the program's name."""
    # Typer keeps the breaks of paragraphs alone.
    return "\n\n".join(["Examples:", *(f"langmem-isolated {command}" for command in commands)])
