"""Root keys: each wraps every stored key and lives outside the database."""

from langmem_isolated._runtime.environment import ROOT_KEY_VARIABLE
from langmem_isolated.root_keys.aws_kms import AwsKmsRootKey
from langmem_isolated.root_keys.local import LocalRootKey
from langmem_isolated.root_keys.named import named_root_key, root_key_from_environment
from langmem_isolated.root_keys.pkcs11 import Pkcs11RootKey
from langmem_isolated.root_keys.provider import RootKey, checked_provider, checked_providers

__all__ = [
    "ROOT_KEY_VARIABLE",
    "AwsKmsRootKey",
    "LocalRootKey",
    "Pkcs11RootKey",
    "RootKey",
    "checked_provider",
    "checked_providers",
    "named_root_key",
    "root_key_from_environment",
]
