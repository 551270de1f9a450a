"""A root key in the AWS Key Management Service: a symmetric key that never leaves it."""

import hashlib
import re
import threading
from http import HTTPStatus
from typing import Any

from langmem_isolated._runtime.arguments import kind_of, seconds, whole_number
from langmem_isolated._runtime.forking import renew_in_children
from langmem_isolated.errors import (
    KeyringError,
    KeyServiceUnavailable,
    RecordDoesNotOpen,
    RootKeyInvalid,
    RootKeyUnavailable,
)

_SERVICE = "AWS KMS"
_INSTALL = "pip install 'langmem-isolated[aws]'"
# Its digest alone: the encryption context stands readable in CloudTrail.
_CONTEXT = "langmem-isolated-context"
_NAMES = re.compile(
    r"(?:arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:)?"
    r"(?P<resource>(?P<kind>key/|alias/)[A-Za-z0-9/_-]{1,256}|[A-Za-z0-9-]{1,256})"
)

# https://docs.aws.amazon.com/kms/latest/APIReference/API_Decrypt.html#API_Decrypt_Errors, and
# https://docs.aws.amazon.com/kms/latest/APIReference/CommonErrors.html
_ASK_AGAIN = {
    "DependencyTimeoutException",
    "InternalFailure",
    "KeyUnavailableException",
    "KMSInternalException",
    "RequestLimitExceeded",
    "RequestTimeout",
    "ServiceUnavailable",
    "ServiceUnavailableException",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
}
_ADVICE = {
    "AccessDeniedException": "Allow this role kms:Encrypt and kms:Decrypt with the key.",
    "DisabledException": "Enable the key.",
    "IncorrectKeyException": "The alias leads to another key now: name the former by its id.",
    "KMSInvalidStateException": "Cancel its deletion, or finish the import of its material.",
    "NotFoundException": "Look at its id and at the region; a deleted key opens nothing any more.",
}
_CREDENTIALS = "Look at the credentials and the region of this process."


class AwsKmsRootKey:
    """A root key in AWS KMS; extra ``aws``.

    Each call is one request of KMS, ``Encrypt`` or ``Decrypt``, whose encryption context holds the
    SHA-256 of the place that the key is for. ``Decrypt`` names the key: a ciphertext that another
    key made is refused. Credentials and region are found as boto3 finds them.

    >>> AwsKmsRootKey("alias/memory").key_id
    'aws-kms:alias/memory'

    Args:
        name: ``alias/…``, the key's id, or an ARN of either. What is stored beside the keys is this
            name without account and region. Whoever gives an alias to another key finds that
            nothing opens; rotate to the other key by its own name in place of that.
        region: Where the key is; by default that of an ARN, or of the environment.
        client: A client of boto3 for ``kms`` to use in place of one's own; timeouts, retries and
            what becomes of it in a forked process are its maker's then.
        connect_timeout: Seconds to wait for a connection.
        read_timeout: Seconds to wait for an answer.
        attempts: How often a request is sent at most; between them is a pause of up to some
            seconds.

    Raises:
        RootKeyInvalid: ``name`` is no name of a key, or boto3 is not installed.
        TypeError: A number is none.
        ValueError: A number is out of its range.
    """

    key_id = "aws-kms:"

    def __init__(
        self,
        name: str,
        *,
        region: str | None = None,
        client: Any = None,
        connect_timeout: float = 2.0,
        read_timeout: float = 5.0,
        attempts: int = 3,
    ) -> None:
        found = _NAMES.fullmatch(name) if isinstance(name, str) else None
        if found is None:
            raise RootKeyInvalid(
                "The name of a key in AWS KMS must be alias/…, a key's id, or an ARN, got "
                f"{_described(name)}."
            )
        self.key_id = f"aws-kms:{'' if found['kind'] else 'key/'}{found['resource']}"
        # As `key_id` has it; KMS wants the id alone.
        self._name = name.removeprefix("key/")
        self._given = client
        self._region = region or (name.split(":")[3] if name.startswith("arn:") else None)
        self._connect_timeout = seconds("connect_timeout", connect_timeout)
        self._read_timeout = seconds("read_timeout", read_timeout)
        self._attempts = whole_number("attempts", attempts, least=1)
        _boto3()
        self.renew_after_fork()
        renew_in_children(self)

    def renew_after_fork(self) -> None:
        """Give a forked child connections of its own."""
        self._own: Any = None
        self._making = threading.Lock()

    def wrap(self, key: bytes, context: bytes) -> bytes:
        """Have KMS encrypt ``key``, at most 4,096 bytes, bound to ``context``.

        Raises:
            KeyServiceUnavailable: KMS does not answer; ask again.
            RootKeyUnavailable: The key is disabled or deleted, or this role may not use it.
        """
        answer = self._asked("encrypt", Plaintext=key, EncryptionContext=_bound_to(context))
        del key
        return _blob(answer, "CiphertextBlob")

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        """Have KMS decrypt what :meth:`wrap` gave.

        Raises:
            KeyServiceUnavailable: KMS does not answer; ask again.
            RootKeyUnavailable: The key is disabled or deleted, or this role may not use it.
            RecordDoesNotOpen: It was changed, or wrapped for another place.
        """
        answer = self._asked(
            "decrypt", CiphertextBlob=wrapped, EncryptionContext=_bound_to(context)
        )
        return _blob(answer, "Plaintext")

    def _asked(self, operation: str, **parameters: Any) -> Any:
        """The answer, or what is to be raised where no frame has the key in it."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return getattr(self._client(), operation)(KeyId=self._name, **parameters)
        except ClientError as error:
            return _refusal(error.response)
        except BotoCoreError as error:
            return _failure(error)

    def _client(self) -> Any:
        if self._given is not None:
            return self._given
        with self._making:
            if self._own is None:
                self._own = self._new_client()
            return self._own

    def _new_client(self) -> Any:
        from botocore.config import Config

        settings = Config(
            connect_timeout=self._connect_timeout,
            read_timeout=self._read_timeout,
            retries={"mode": "standard", "total_max_attempts": self._attempts},
        )
        # A session of our own: that of the module is not made for threads.
        return _boto3().Session().client("kms", region_name=self._region, config=settings)

    def __repr__(self) -> str:
        return f"AwsKmsRootKey({self.key_id!r})"


def _boto3() -> Any:
    try:
        import boto3
    except ImportError:
        raise RootKeyInvalid(f"AWS KMS needs boto3, which is not installed: {_INSTALL}") from None
    return boto3


def _described(name: object) -> str:
    return f"a str of {len(name)} characters" if isinstance(name, str) else kind_of(name)


def _bound_to(context: bytes) -> dict[str, str]:
    return {_CONTEXT: hashlib.sha256(context).hexdigest()}


def _blob(answer: Any, name: str) -> bytes:
    if isinstance(answer, KeyringError | RecordDoesNotOpen):
        raise answer
    blob: bytes = answer[name]
    return blob


def _refusal(response: Any) -> KeyringError | RecordDoesNotOpen:
    """What KMS said, by its code alone: its messages name accounts."""
    code = str(response.get("Error", {}).get("Code", "no code"))[:80]
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "InvalidCiphertextException":
        return RecordDoesNotOpen("key", "AWS KMS refuses it for this place")
    if code in _ASK_AGAIN or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return KeyServiceUnavailable(_SERVICE, code)
    return RootKeyUnavailable(_SERVICE, code, _ADVICE.get(code, _CREDENTIALS))


def _failure(error: Exception) -> KeyringError:
    """What happened before there was an answer, by its name."""
    from botocore import exceptions

    name = type(error).__name__
    transient = (
        *(exceptions.ConnectionError, exceptions.HTTPClientError),
        *(exceptions.CredentialRetrievalError, exceptions.MetadataRetrievalError),
        exceptions.TokenRetrievalError,
    )
    if isinstance(error, transient):
        return KeyServiceUnavailable(_SERVICE, name)
    return RootKeyUnavailable(_SERVICE, name, _CREDENTIALS)
