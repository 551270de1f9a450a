"""Version check: refuses stored forms that a later version of this package wrote."""

from langmem_isolated.errors import RecordError


def later_form(what: str, form: bytes, *known: bytes) -> RecordError:
    """What is raised for a form that this version does not know."""
    return RecordError(
        f"A {what} is stored in form {form.hex()}, this version knows "
        f"{', '.join(one.hex() for one in known)}. Nothing was changed; install a later "
        "langmem-isolated."
    )
