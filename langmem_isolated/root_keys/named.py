"""Root keys by name, as the environment and the command line tell where one is."""

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, unquote

from langmem_isolated._runtime.environment import PKCS11_MODULE_VARIABLE, PKCS11_PIN_VARIABLE
from langmem_isolated._runtime.environment import ROOT_KEY_VARIABLE as _VARIABLE
from langmem_isolated.errors import RootKeyInvalid, RootKeyMissing
from langmem_isolated.root_keys.aws_kms import AwsKmsRootKey
from langmem_isolated.root_keys.files import refusal
from langmem_isolated.root_keys.local import LocalRootKey
from langmem_isolated.root_keys.pkcs11 import Pkcs11RootKey
from langmem_isolated.root_keys.provider import RootKey

_AWS_KMS, _PKCS11 = "aws-kms:", "pkcs11:"
_FORMS = "aws-kms:alias/memory, or pkcs11:token=memory;object=root?module-path=/usr/lib/module.so"
_PARTS = {"token", "object", "module-path", "pin-source"}


def root_key_from_environment(environment: Mapping[str, str] | None = None) -> RootKey:
    """The root key that ``LANGMEM_ISOLATED_ROOT_KEY`` is or names, or the file of ``…_FILE`` holds.

    Raises:
        RootKeyMissing: Neither variable is set.
        RootKeyInvalid: What is set is neither a key nor the name of one, or both are, of two keys.
    """
    # Never the text in a variable of ours unless it is a name: it may be the key.
    if _is_name(_variables(environment).get(_VARIABLE, "")):
        return named_root_key(_variables(environment)[_VARIABLE], environment)
    return LocalRootKey.from_environment(environment)


def named_root_key(name: str, environment: Mapping[str, str] | None = None) -> RootKey:
    """The root key of a service or module, by its name.

    ``aws-kms:`` and an alias, id or ARN, with credentials and region as boto3 finds them; or a URI
    of PKCS#11 (RFC 7512) with ``token`` and ``object``, and with ``module-path`` and
    ``pin-source`` where ``LANGMEM_ISOLATED_PKCS11_MODULE`` and ``LANGMEM_ISOLATED_PKCS11_PIN``, or
    ``…_PIN_FILE``, do not say them.

    Args:
        name: The name.
        environment: Where the variables are; those of the process when ``None``.

    Raises:
        RootKeyInvalid: It is no such name, or something is missing.
        RootKeyMissing: The file of the PIN is not there.
    """
    name = name.strip()
    if name.startswith(_AWS_KMS):
        return AwsKmsRootKey(name.removeprefix(_AWS_KMS))
    if name.startswith(_PKCS11):
        return _in_token(name, _variables(environment))
    raise RootKeyInvalid(
        f"The name of a root key in a service must be such as {_FORMS}, got a str of {len(name)} "
        "characters."
    )


def _is_name(text: str) -> bool:
    return text.strip().startswith((_AWS_KMS, _PKCS11))


def _variables(environment: Mapping[str, str] | None) -> Mapping[str, str]:
    return os.environ if environment is None else environment


def _in_token(uri: str, variables: Mapping[str, str]) -> Pkcs11RootKey:
    parts = _parts_of(uri)
    module = parts.get("module-path") or variables.get(PKCS11_MODULE_VARIABLE)
    if module is None or not {"token", "object"} <= parts.keys():
        raise RootKeyInvalid(
            f"A key in a token must be named with token, object and module-path: {_FORMS}; or set "
            f"{PKCS11_MODULE_VARIABLE} to the path of the module."
        )
    if "pin-source" in parts:
        pin: str | None = _pin_in(parts["pin-source"].removeprefix("file:"))
    elif path := variables.get(f"{PKCS11_PIN_VARIABLE}_FILE"):
        pin = _pin_in(path)
    else:
        pin = variables.get(PKCS11_PIN_VARIABLE)
    return Pkcs11RootKey(module=module, token=parts["token"], key=parts["object"], pin=pin)


def _parts_of(uri: str) -> dict[str, str]:
    path, _, query = uri.removeprefix(_PKCS11).partition("?")
    pairs = (part.partition("=") for part in path.split(";"))
    parts = {name: unquote(value) for name, _, value in pairs}
    parts |= dict(parse_qsl(query.replace("+", "%2B")))
    unknown = sorted(parts.keys() - _PARTS)
    if unknown:
        # By how many: what stands there may be a PIN.
        raise RootKeyInvalid(
            f"The name of a key in a token has {len(unknown)} parts that are not known. Expected "
            f"token, object, module-path, pin-source; the PIN itself goes into "
            f"{PKCS11_PIN_VARIABLE}, or a file."
        )
    return parts


def _pin_in(path: str) -> str:
    """The PIN in a file that its owner alone can read."""
    try:
        with Path(path).open("rb") as file:
            reason = refusal(file.fileno())
            pin = "" if reason else file.read(256).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        raise RootKeyMissing(PKCS11_PIN_VARIABLE, "The file of the PIN is not there") from None
    except OSError as error:
        raise RootKeyInvalid(f"The file of the PIN cannot be read: {error.strerror}.") from None
    if reason:
        raise RootKeyInvalid(reason.replace("root key file", "file of the PIN"))
    return pin
