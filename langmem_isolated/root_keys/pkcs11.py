"""A root key in a hardware security module, by PKCS#11: an AES key that never leaves the token."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import quote

from langmem_isolated._crypto.secret_bytes import SecretBytes
from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated._runtime.environment import PKCS11_PIN_VARIABLE
from langmem_isolated._runtime.forking import renew_in_children
from langmem_isolated.errors import (
    KeyringError,
    KeyServiceUnavailable,
    RecordDoesNotOpen,
    RootKeyInvalid,
    RootKeyUnavailable,
)

T = TypeVar("T")

_SERVICE = "The PKCS#11 token"
_INSTALL = "pip install 'langmem-isolated[pkcs11]'"
_FORM = b"\x01"
_NONCE_BYTES, _TAG_BYTES = 12, 16
_LEAST_BYTES = len(_FORM) + _NONCE_BYTES + _TAG_BYTES

# By their names: PKCS #11 Specification Version 3.1, section 5.1 (CKR_…).
_STALE = {
    *("SessionClosed", "SessionHandleInvalid", "UserNotLoggedIn", "OperationActive"),
    *("DeviceRemoved", "TokenNotPresent", "KeyHandleInvalid", "ObjectHandleInvalid"),
}
_ASK_AGAIN = {
    *("DeviceError", "DeviceMemory", "DeviceRemoved", "FunctionFailed", "GeneralError"),
    *("HostMemory", "NoSuchToken", "SessionCount", "TokenNotPresent"),
}
_NOT_THIS = {"EncryptedDataInvalid", "EncryptedDataLenRange", "GeneralError", "SignatureInvalid"}
_WRONG_PIN = {"PinIncorrect", "PinInvalid", "PinLenRange", "PinLocked", "PinExpired"}
_ADVICE = {
    "NoSuchKey": (
        "The token has no AES key of this name: it was destroyed, or never made. What a destroyed "
        "key wrapped opens nothing any more; Pkcs11RootKey(…).make_key() makes a new one."
    ),
    "MultipleObjectsReturned": "The token has several keys of this name: give each another one.",
    **dict.fromkeys(_WRONG_PIN, "Look at the PIN: it is not tried again in this process."),
}
_NO_PIN = (
    "No PIN was given, and without a login a token shows no key that wants one: set "
    f"{PKCS11_PIN_VARIABLE}_FILE, or give pin=."
)
_WANTS_LOGIN = {"NoSuchKey", "UserNotLoggedIn"}
_LOOK = "Look at the module, the token and the rights of its key (CKA_ENCRYPT, CKA_DECRYPT)."


class Pkcs11RootKey:
    """A root key in a token of PKCS#11, such as a hardware security module; extra ``pkcs11``.

    An AES key of 256 bits by which the token itself encrypts and decrypts, AES-GCM with the place
    that a key is for as associated data and a random nonce of 12 bytes (NIST SP 800-38D). It must
    be one that cannot leave the token; :meth:`make_key` makes such a one in the token.

    A process logs in once for each token and keeps the session. All calls of one module wait for
    each other; there are a few in a process. A forked child initialises the module anew, as PKCS#11
    wants it.

    What is wrapped is ``1 form (1) | 12 nonce | ciphertext | 16 tag``.

    Args:
        module: The path of the library that the maker of the token gives.
        token: The token's label.
        key: The key's label.
        pin: The user's PIN; none for a token that wants no login, or where the application has
            logged in.

    Raises:
        RootKeyInvalid: An argument is malformed, or python-pkcs11 is not installed.
    """

    key_id = "pkcs11:"

    def __init__(
        self, *, module: str | os.PathLike[str], token: str, key: str, pin: str | None = None
    ) -> None:
        # First, so that no frame has it where something is refused.
        kind, secret = kind_of(pin), _as_secret(pin)
        del pin
        if secret is None and kind != "NoneType":
            raise RootKeyInvalid(f"pin must be a str, got {kind}.")
        for name, value in (("token", token), ("key", key)):
            if not isinstance(value, str) or not value:
                raise RootKeyInvalid(
                    f"{name} must be the label of a {name}, a str that is not empty, got "
                    f"{kind_of(value)}."
                )
        self.key_id = f"pkcs11:token={quote(token)};object={quote(key)}"
        self._label = key
        self._pin = secret
        self._token = _token_of(_library(module), token)
        _pkcs11()

    def make_key(self) -> Self:
        """Have the token make this key: 256 bits that cannot leave it.

        Raises:
            KeyServiceUnavailable: The token does not answer.
            RootKeyUnavailable: The PIN is wrong, or the token makes no such key.
            RootKeyInvalid: There is a key of this name.
        """

        def make(session: Any) -> None:
            # Its user is logged in already, and stays so when this one is closed.
            with session.token.open(rw=True) as writing:
                _make(writing, self._label)

        self._run(make)
        return self

    def _run(self, work: Callable[[Any], T]) -> T:
        failure: KeyringError | None = None
        try:
            return self._token.run(work, self._pin)
        except _pkcs11().PKCS11Error as error:
            failure = _translated(error, has_pin=self._pin is not None)
        # Out here, so that the frames of the attempt are in no traceback.
        raise failure

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """Have the token encrypt ``key``, bound to ``context``.

        Raises:
            KeyServiceUnavailable: The token does not answer; ask again.
            RootKeyUnavailable: The key was destroyed, or may not be used so.
            RootKeyInvalid: The key could leave the token.
        """
        nonce, secret = os.urandom(_NONCE_BYTES), SecretBytes(key)
        del key

        def encrypt(session: Any) -> bytes:
            mechanism = _gcm(nonce, context)
            return bytes(_found(session, self._label).encrypt(secret.reveal(), **mechanism))

        return _FORM + nonce + self._run(encrypt)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Have the token decrypt what :meth:`wrap` gave.

        Raises:
            KeyServiceUnavailable: The token does not answer; ask again.
            RootKeyUnavailable: The key was destroyed, or may not be used so.
            RecordDoesNotOpen: It was changed, or wrapped for another place or by another key.
        """
        if not wrapped.startswith(_FORM) or len(wrapped) < _LEAST_BYTES:
            raise RecordDoesNotOpen("key", f"its form is unknown ({len(wrapped)} bytes)")
        nonce, sealed = wrapped[1 : 1 + _NONCE_BYTES], wrapped[1 + _NONCE_BYTES :]
        return self._run(lambda session: self._opened(session, nonce, sealed, context))

    def _opened(self, session: Any, nonce: bytes, sealed: bytes, context: bytes) -> bytes:
        key = _found(session, self._label)
        try:
            return bytes(key.decrypt(sealed, **_gcm(nonce, context)))
        except _pkcs11().PKCS11Error as error:
            # Some tokens say of a wrong tag that something went wrong: then another one opens.
            if type(error).__name__ not in _NOT_THIS or not _works(key):
                raise
        raise RecordDoesNotOpen("key", "the token refuses it for this place")

    def __repr__(self) -> str:
        return f"Pkcs11RootKey({self.key_id!r})"

    def __reduce__(self) -> str:
        raise TypeError("keys are not pickled")


class _Module:
    """A library of PKCS#11, which knows of one login for a whole process."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._is_forked = False
        self._take_lock()
        renew_in_children(self)

    def _take_lock(self) -> None:
        self.lock = threading.Lock()
        self.generation = object()

    def renew_after_fork(self) -> None:
        """Have the child initialise the library before it uses it."""
        self._take_lock()
        self._is_forked = True

    def loaded(self) -> Any:
        """The library, initialised in this very process."""
        library = _pkcs11().lib(self._path)
        if self._is_forked:
            self._is_forked = False
            try:
                library.finalize()
            except _pkcs11().PKCS11Error:
                pass  # It was never initialised here, as the standard has it of a child.
            library.initialize()
        return library


class _Token:
    """A token, and the session in which this process is logged in."""

    def __init__(self, module: _Module, label: str) -> None:
        self._module = module
        self._label = label
        self._refused: list[SecretBytes] = []
        self._session: Any = None
        self._generation: object = None

    def run(self, work: Callable[[Any], T], pin: SecretBytes | None) -> T:
        """Do ``work`` in the session; once more in a new one where the former has ended."""
        with self._module.lock:
            try:
                return work(self._opened(pin))
            except _pkcs11().PKCS11Error as error:
                if type(error).__name__ not in _STALE:
                    raise
            self._session = None
            return work(self._opened(pin))

    def _opened(self, pin: SecretBytes | None) -> Any:
        if self._session is None or self._generation is not self._module.generation:
            self._session = self._logged_in(pin)
            self._generation = self._module.generation
        return self._session

    def _logged_in(self, pin: SecretBytes | None) -> Any:
        token = self._module.loaded().get_token(token_label=self._label)
        if pin is None:
            return token.open()
        # A token counts the wrong ones, and locks itself.
        if pin in self._refused:
            raise RootKeyUnavailable(_SERVICE, "PinIncorrect", _ADVICE["PinIncorrect"])
        try:
            return token.open(user_pin=pin.reveal().decode())
        except _pkcs11().UserAlreadyLoggedIn:
            return token.open()
        except _pkcs11().PKCS11Error as error:
            if type(error).__name__ in _WRONG_PIN:
                self._refused.append(pin)
            raise


_modules: dict[str, _Module] = {}
_tokens: dict[tuple[str, str], _Token] = {}


def _token_of(library: str, label: str) -> _Token:
    """The one object of a token: two sessions that log in would log each other out."""
    place = os.path.realpath(library)
    # By the name that is given: python-pkcs11 knows by it whether the application uses it, too.
    module = _modules.setdefault(place, _Module(library))
    return _tokens.setdefault((place, label), _Token(module, label))


def _pkcs11() -> Any:
    try:
        import pkcs11
    except ImportError:
        raise RootKeyInvalid(
            f"PKCS#11 needs python-pkcs11, which is not installed: {_INSTALL}"
        ) from None
    return pkcs11


def _library(path: object) -> str:
    if not isinstance(path, str | os.PathLike) or not Path(path).is_file():
        raise RootKeyInvalid(
            "module must be the path of a PKCS#11 library, such as "
            f"/usr/lib/softhsm/libsofthsm2.so; there is no such file, got {kind_of(path)}."
        )
    return os.fspath(path)


def _as_secret(pin: object) -> SecretBytes | None:
    return SecretBytes(pin.encode()) if isinstance(pin, str) else None


def _gcm(nonce: bytes, context: bytes) -> dict[str, Any]:
    from pkcs11.mechanisms import GCMParams

    parameters = GCMParams(nonce, context, 8 * _TAG_BYTES)
    return {"mechanism": _pkcs11().Mechanism.AES_GCM, "mechanism_param": parameters}


def _found(session: Any, label: str) -> Any:
    """The key, which must not be able to leave the token; looked up each time: it may be gone."""
    kinds, attribute = _pkcs11().ObjectClass, _pkcs11().Attribute
    key = session.get_key(
        object_class=kinds.SECRET_KEY, key_type=_pkcs11().KeyType.AES, label=label
    )
    if key[attribute.EXTRACTABLE] or not key[attribute.SENSITIVE]:
        raise RootKeyInvalid(
            "The key in the token could leave it: CKA_EXTRACTABLE must be false, CKA_SENSITIVE "
            "true. Nothing was wrapped; make another with Pkcs11RootKey(…).make_key()."
        )
    return key


def _make(session: Any, label: str) -> None:
    names = _pkcs11()
    try:
        _found(session, label)
    except names.NoSuchKey:
        session.generate_key(
            names.KeyType.AES,
            256,
            label=label,
            id=os.urandom(16),
            store=True,
            capabilities=names.MechanismFlag.ENCRYPT | names.MechanismFlag.DECRYPT,
            template={names.Attribute.EXTRACTABLE: False, names.Attribute.SENSITIVE: True},
        )
    else:
        raise RootKeyInvalid("The token has a key of this name. Nothing was made; name another.")


def _works(key: Any) -> bool:
    """Whether the token opens with ``key`` what it has sealed a moment ago."""
    mechanism = _gcm(os.urandom(_NONCE_BYTES), b"trial")
    try:
        return (
            bytes(key.decrypt(bytes(key.encrypt(b"trial", **mechanism)), **mechanism)) == b"trial"
        )
    except _pkcs11().PKCS11Error:
        return False


def _translated(error: Exception, *, has_pin: bool) -> KeyringError:
    """What the token said, by its name alone."""
    name = type(error).__name__
    if name in _WANTS_LOGIN and not has_pin:
        return RootKeyUnavailable(_SERVICE, name, _NO_PIN)
    if name in _ASK_AGAIN:
        return KeyServiceUnavailable(_SERVICE, name)
    return RootKeyUnavailable(_SERVICE, name, _ADVICE.get(name, _LOOK))
