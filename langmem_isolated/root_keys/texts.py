"""Texts that are no root key: what they look like, so that the way from there can be told."""

import base64
import binascii
import re

from langmem_isolated._crypto.secret_bytes import KEY_BYTES
from langmem_isolated._runtime.arguments import kind_of

# What a text is recognised by, and what to do with it; the first that fits.
_FORMS = (
    (r"", "0 characters. The variable or file is empty."),
    (r"[0-9a-fA-F]{64}", "64 hexadecimal digits. Write LocalRootKey(bytes.fromhex(text))."),
    (r"\$[({].*", "a command or variable that no shell has replaced. Run it first."),
    (r"[A-Z][A-Z0-9]*_[A-Z0-9_]*=.+", "a variable's name and its value. Give the value alone."),
    (
        r"(aws-kms|pkcs11):.*",
        (
            "the name of a key in a key service. It stands in LANGMEM_ISOLATED_ROOT_KEY itself, in "
            "no file; in code write named_root_key(name)."
        ),
    ),
    (r"[a-z0-9-]+:[^/].*", "a name. Of key services aws-kms:… and pkcs11:… are known."),
    (r"([\"']).*\1", "a text in quotation marks. Take them off."),
    (r".*\s.*", "a text with spaces or line breaks in it. Take them out, or make a new key."),
    (r"[~./].*|.*\.(key|txt|pem)", "what looks like a path. Write LocalRootKey.from_file(path)."),
)
_URL_SAFE = (
    "URL-safe base64, as Fernet.generate_key() gives it. Write "
    "LocalRootKey(base64.urlsafe_b64decode(text))."
)


def described(text: object) -> str:
    """What a text is instead of a root key, without any of its characters; ends its sentence."""
    if not isinstance(text, str):
        more = " Write text.decode()." if isinstance(text, bytes) else " Give the text of a key."
        return f"{kind_of(text)}.{more}"
    text = text.strip()
    for form, told in _FORMS:
        if re.fullmatch(form, text, re.DOTALL):
            return told
    length = f"{len(text)} characters"
    if re.search("[-_]", text) and _bytes_in(text, b"-_") == KEY_BYTES:
        return _URL_SAFE
    if _bytes_in(f"{text}=", None) == KEY_BYTES:
        return f"{length}. The = at the end is missing."
    found = _bytes_in(text, None)
    return f"{length} that are not." if found is None else f"{length}, which are {found} bytes."


def _bytes_in(text: str, altchars: bytes | None) -> int | None:
    try:
        return len(base64.b64decode(text, altchars, validate=True))
    except (binascii.Error, ValueError):
        return None
