"""A root key is named where the environment or an option says that a service or token holds it."""

from pathlib import Path

import pytest

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.errors import RootKeyInvalid, RootKeyMissing
from langmem_isolated.root_keys import (
    ROOT_KEY_VARIABLE,
    AwsKmsRootKey,
    Pkcs11RootKey,
    named_root_key,
    root_key_from_environment,
)
from tests.test_keyring import TEXT

PIN = "LANGMEM_ISOLATED_PKCS11_PIN"
MODULE = "LANGMEM_ISOLATED_PKCS11_MODULE"
URI = "pkcs11:token=my%20token;object=root"


@pytest.fixture
def module(tmp_path: Path) -> str:
    """A file in the place of a module, which is loaded at its first use."""
    path = tmp_path / "module+1.so"
    path.touch()
    return str(path)


def pin_of(root_key: object) -> str | None:
    assert isinstance(root_key, Pkcs11RootKey)
    return root_key._pin and root_key._pin.reveal().decode()


def pin_file(folder: Path, mode: int = 0o600) -> Path:
    path = folder / "pin"
    path.write_text("from a file\n")
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "name",
    [
        "aws-kms:alias/memory",
        "aws-kms:key/1234abcd-12ab",
        " aws-kms:arn:aws:kms:x:123456789012:key/1",
    ],
)
def test_a_key_in_aws_kms_is_named_as_its_key_id_names_it(name: str):
    root_key = root_key_from_environment({ROOT_KEY_VARIABLE: name})

    assert isinstance(root_key, AwsKmsRootKey)
    assert root_key.key_id in {name, "aws-kms:key/1"}
    again = named_root_key(root_key.key_id)
    assert isinstance(again, AwsKmsRootKey)
    assert again.key_id == root_key.key_id


def test_kms_is_asked_for_a_key_by_its_id_alone():
    root_key = named_root_key("aws-kms:key/1234abcd")
    assert isinstance(root_key, AwsKmsRootKey)
    assert root_key._name == "1234abcd"


def test_a_key_in_a_token_is_named_by_a_uri_and_the_pin_stands_elsewhere(module: str, tmp_path):
    for uri, variables, pin in (
        (URI, {MODULE: module}, None),
        (URI, {MODULE: module, PIN: "from the environment"}, "from the environment"),
        (URI, {MODULE: module, f"{PIN}_FILE": str(pin_file(tmp_path))}, "from a file"),
        (f"{URI}?module-path={module}&pin-source=file:{pin_file(tmp_path)}", {}, "from a file"),
        (f"{URI}?module-path={module}&pin-source={pin_file(tmp_path)}", {PIN: "x"}, "from a file"),
    ):
        root_key = root_key_from_environment({ROOT_KEY_VARIABLE: uri, **variables})
        assert root_key.key_id == URI
        assert pin_of(root_key) == pin


@pytest.mark.parametrize(
    "uri",
    [
        "pkcs11:",
        "pkcs11:token=t",
        "pkcs11:object=o?module-path=/x",
        "pkcs11:token=t;object=o",
        "pkcs11:token=t;object=o;pin-value=86420?module-path=/x",
        "pkcs11:token=t;object=o?module-path=/x&pin-value=86420",
        "pkcs11:86420",
        "pkcs11:token=t;object=o?module-path=/nowhere/86420.so",
        "aws-kms:",
        "gcp-kms:86420",
        "86420",
        "",
    ],
)
def test_a_name_that_is_incomplete_or_not_known_is_refused_without_being_shown(uri: str):
    with pytest.raises(RootKeyInvalid) as caught:
        named_root_key(uri, {})
    assert "86420" not in str(caught.value)


def test_a_name_of_a_service_that_is_not_known_is_no_key_in_the_environment_either():
    with pytest.raises(RootKeyInvalid, match=r"aws-kms:… and pkcs11:…"):
        root_key_from_environment({ROOT_KEY_VARIABLE: "gcp-kms:projects/x"})


def test_a_pin_that_others_can_read_or_that_is_not_there_is_refused(module: str, tmp_path: Path):
    variables = {MODULE: module, f"{PIN}_FILE": str(pin_file(tmp_path, 0o644))}
    with pytest.raises(RootKeyInvalid, match="file of the PIN has mode 0644"):
        named_root_key(URI, variables)
    with pytest.raises(RootKeyMissing, match="file of the PIN is not there"):
        named_root_key(URI, {**variables, f"{PIN}_FILE": str(tmp_path / "none")})
    with pytest.raises(RootKeyInvalid, match="file of the PIN cannot be read"):
        named_root_key(URI, {**variables, f"{PIN}_FILE": str(tmp_path)})


def test_a_key_itself_is_read_as_before():
    root_key = root_key_from_environment({ROOT_KEY_VARIABLE: f"{TEXT}\n"})

    assert isinstance(root_key, LocalRootKey)
    with pytest.raises(RootKeyMissing):
        root_key_from_environment({})


@pytest.mark.parametrize("name", ["aws-kms:alias/memory", URI])
def test_whoever_gives_the_name_in_place_of_the_key_is_told_what_to_write(name: str):
    with pytest.raises(RootKeyInvalid, match=r"got str\. Write root_key=named_root_key\(name\)"):
        IsolatedMemory("sqlite://", root_key=name)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["aws-kms:alias/memory", "pkcs11:token=memory;object=root"])
def test_a_name_in_a_key_file_is_told_where_it_belongs(tmp_path: Path, name: str):
    file = tmp_path / "root.key"
    file.write_text(name)
    file.chmod(0o600)

    with pytest.raises(RootKeyInvalid, match="It stands in LANGMEM_ISOLATED_ROOT_KEY itself") as at:
        LocalRootKey.from_file(file)

    assert name not in str(at.value)
