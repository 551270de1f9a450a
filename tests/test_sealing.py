import copy
import hmac
import json
import os
import pickle
import zlib
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from langmem_isolated import Scope
from langmem_isolated._codecs.headers import Header, encode_header
from langmem_isolated._codecs.messages import encode_message
from langmem_isolated._crypto import sealing
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._crypto.scope_keys import ScopeKeys, principal_digest, scope_digest
from langmem_isolated._crypto.sealing import (
    DEFLATED,
    PLAIN,
    SealingKey,
    associated_data_of,
    derive,
    digest,
    equal,
    framed,
    open_sealed,
    opener,
    seal,
    tag_of,
)
from langmem_isolated._storage.container_state import ContainerState
from langmem_isolated.errors import RecordDoesNotOpen
from langmem_isolated.root_keys import LocalRootKey
from tests.spellings import assert_shows_none_of

VECTORS = Path(__file__).parent / "vectors"
KEY = bytes(range(100, 132))
PLACE = framed(b"alice", b"tutor")
PLAINTEXT = b"What is 7 times 6?"

ids = st.text(st.sampled_from("ab:1é"), min_size=1, max_size=4)
parts = st.lists(st.none() | st.binary(max_size=6), max_size=6)
owners = st.one_of(
    st.builds(Owner, st.just(Level.PRIVATE), ids, ids, ids),
    st.builds(Owner, st.just(Level.USER), ids, ids),
    st.builds(Owner, st.just(Level.MODULE), ids, st.none(), ids),
    st.builds(Owner, st.just(Level.PROJECT), ids),
    st.builds(Owner, st.just(Level.ANONYMOUS), ids, ids, ids),
)
addresses = st.tuples(
    owners,
    st.sampled_from(Kind),
    st.binary(max_size=4) | st.binary(min_size=16, max_size=24),
    st.binary(max_size=4) | st.binary(min_size=8, max_size=16),
)


@pytest.fixture(scope="module")
def key() -> SealingKey:
    return SealingKey(KEY)


def opened(sealed: bytes, *keys: SealingKey, place: bytes = PLACE) -> bytes:
    return open_sealed({key.id: key for key in keys}, place, sealed, kind="message")


def unframed(data: bytes) -> list[bytes | None]:
    """Take apart what `framed` joined, by its description alone."""
    taken: list[bytes | None] = []
    while data:
        length, data = int.from_bytes(data[:4]), data[4:]
        if length == 0xFFFFFFFF:
            taken.append(None)
        else:
            assert len(data) >= length
            taken.append(data[:length])
            data = data[length:]
    return taken


def associated_data(owner: Owner, kind: Kind, parent: bytes, key: bytes) -> bytes:
    """What a record at this address is bound to, as the record layer makes it."""
    keys = ScopeKeys(owner, bytes(16), 1, bytes(32), [bytes(32)])
    return keys.aad_prefix(kind, parent) + framed(key)


def flipped(data: bytes, bit: int) -> bytes:
    return bytes(byte ^ (1 << bit % 8 if n == bit // 8 else 0) for n, byte in enumerate(data))


def frozen(name: str) -> dict:
    return json.loads((VECTORS / f"{name}.json").read_text())


def as_json(value: object) -> object:
    """Bytes as hex, tuples as lists."""
    return json.loads(json.dumps(value, default=bytes.hex))


# The primitives


@pytest.mark.parametrize("test", frozen("wycheproof_aes_gcm")["tests"], ids=lambda t: t["tcId"])
def test_aes_gcm_behaves_as_wycheproof_wants(test: dict):
    nonce, aad, message, ciphertext, tag = (
        bytes.fromhex(test[name]) for name in ("iv", "aad", "msg", "ct", "tag")
    )
    aead = sealing.AESGCM(bytes.fromhex(test["key"]))

    if test["result"] == "valid":
        assert aead.encrypt(nonce, message, aad) == ciphertext + tag
        assert aead.decrypt(nonce, ciphertext + tag, aad) == message
    else:
        with pytest.raises(sealing.InvalidTag):
            aead.decrypt(nonce, ciphertext + tag, aad)


@pytest.mark.parametrize("test", frozen("wycheproof_hkdf_sha256")["tests"], ids=lambda t: t["tcId"])
def test_hkdf_behaves_as_wycheproof_wants(test: dict):
    key, salt, info, output = (bytes.fromhex(test[name]) for name in ("ikm", "salt", "info", "okm"))

    def derived() -> bytes:
        return sealing.HKDF(sealing.SHA256(), test["size"], salt=salt, info=info).derive(key)

    if test["result"] == "valid":
        assert derived() == output
    else:
        with pytest.raises(ValueError, match="Cannot derive keys larger than"):
            derived()


# The frozen format


def remade_sealing() -> dict:
    plain, long = "Grüße aus Köln".encode(), b"the quick brown fox " * 80
    nonce = bytes(range(12))
    joined = [[], [None], [b""], [b"", None], [b"ab", b"c"], [b"a", b"bc"], [bytes(300)]]
    purposes = [(b"key id", b""), (b"root key", b""), (b"names", b"ab"), (b"namesab", b"")]
    digested = [[], [None], [b"scope", b"a"], [b"scopea"]]
    return {
        "framed": [{"parts": p, "framed": framed(*p)} for p in joined],
        "derived": [{"key": KEY, "purpose": p, "context": c, "subkey": derive(KEY, p, c)}
                    for p, c in purposes],
        "digests": [{"key": KEY, "parts": p, "digest": digest(KEY, *p)} for p in digested],
        "key_id": SealingKey(KEY).id,
        "plain": {"key": KEY, "nonce": nonce, "place": PLACE, "plaintext": plain,
                  "sealed": seal(SealingKey(KEY), PLACE, plain, nonce=nonce)},
        "deflated": {"key": KEY, "nonce": nonce, "place": PLACE, "plaintext": long,
                     "sealed": seal(SealingKey(KEY), PLACE, long, nonce=nonce)},
    }  # fmt: skip


def remade_scope() -> dict:
    directory, naming = bytes([1]) * 32, bytes([2]) * 32
    sealing = [bytes([3]) * 32, bytes([4]) * 32]
    owners = [
        Owner(Level.PRIVATE, "default", "alice", "tutor"),
        Owner(Level.USER, "default", "alice"),
        Owner(Level.MODULE, "default", None, "tutor"),
        Owner(Level.PROJECT, "default"),
        Owner(Level.ANONYMOUS, "default", "Zoë", "tutor"),
    ]
    keys = ScopeKeys(owners[0], scope_digest(directory, owners[0]), 1, naming, sealing)
    session = keys.pseudonym(Kind.SESSION, b"monday")
    generation, sequence, nonce = b"generate", (0).to_bytes(8), bytes(range(12))
    state = ContainerState(b"t" * 16, 2, 2, 1_900_000_000_000, generation)
    message = encode_message(_human("What is 7 times 6?"))
    header = encode_header(Header("monday", "Tables", "general"))
    place = keys.aad_prefix(Kind.MESSAGE, session + generation) + framed(sequence)
    header_place = keys.aad_prefix(Kind.SESSION, b"") + framed(session)
    return {
        "directory_key": directory,
        "naming_key": naming,
        "sealing_keys": sealing,
        "root_key_id": LocalRootKey(KEY).key_id,
        "owners": [
            {"level": int(o.level), "project": o.project, "user": o.user, "module": o.module,
             "framed": o.framed(), "principal": o.principal(),
             "scope_id": scope_digest(directory, o), "principal_id": principal_digest(directory, o)}
            for o in owners
        ],
        "kinds": {kind.label: int(kind) for kind in Kind if kind <= Kind.VECTOR},
        "session_name": session,
        "message_alias": keys.pseudonym(Kind.MESSAGE, session, b"run-1"),
        "head": state.row_mac(keys, session),
        "head_without_expiry": ContainerState(b"t" * 16, 2, 2, None, generation).row_mac(
            keys, session
        ),
        "message_place": place,
        "message": message,
        "message_sealed": seal(keys.sealing, place, message, nonce=nonce),
        "header_place": header_place,
        "header": header,
        "header_sealed": seal(keys.sealing, header_place, header, nonce=nonce),
        "message_sealed_by_the_older_key": seal(
            keys.opening[SealingKey(derive(sealing[0], b"records", owners[0].framed())).id],
            place, message, nonce=nonce,
        ),
    }  # fmt: skip


def _human(content: str):
    from langchain_core.messages import HumanMessage

    return HumanMessage(content)


def test_sealing_makes_the_bytes_that_were_frozen():
    remade, expected = as_json(remade_sealing()), frozen("sealing_v1")

    # Another zlib may deflate to other bytes; what was deflated once must open for ever.
    remade["deflated"].pop("sealed")
    expected["deflated"].pop("sealed")
    assert remade == expected


def test_a_scope_makes_the_bytes_that_were_frozen():
    assert as_json(remade_scope()) == frozen("scope_v1")


def test_kinds_keep_their_numbers():
    later = {"collection": 11, "embedding": 12, "entry": 13}

    assert {kind.label: int(kind) for kind in Kind} == frozen("scope_v1")["kinds"] | later


@pytest.mark.parametrize("form", ["plain", "deflated"])
def test_a_frozen_record_opens(form: str):
    vector = frozen("sealing_v1")[form]
    key, place, sealed, plaintext = (
        bytes.fromhex(vector[name]) for name in ("key", "place", "sealed", "plaintext")
    )

    assert sealed[0] == {"plain": PLAIN, "deflated": DEFLATED}[form]
    assert opened(sealed, SealingKey(key), place=place) == plaintext


def test_frozen_records_of_a_scope_open_with_its_keys():
    vector = frozen("scope_v1")
    owner = vector["owners"][0]
    keys = ScopeKeys(
        Owner(Level(owner["level"]), owner["project"], owner["user"], owner["module"]),
        bytes.fromhex(owner["scope_id"]),
        1,
        bytes.fromhex(vector["naming_key"]),
        [bytes.fromhex(key) for key in vector["sealing_keys"]],
    )
    session = keys.pseudonym(Kind.SESSION, b"monday")
    place, first = keys.aad_prefix(Kind.MESSAGE, session + b"generate"), (0).to_bytes(8)

    for name in ("message_sealed", "message_sealed_by_the_older_key"):
        sealed = bytes.fromhex(vector[name])
        assert keys.open(place, first, sealed, Kind.MESSAGE).hex() == vector["message"]
    sealed = bytes.fromhex(vector["header_sealed"])
    header = keys.open(keys.aad_prefix(Kind.SESSION, b""), session, sealed, Kind.SESSION)
    assert header.hex() == vector["header"]


def test_a_sealed_record_is_what_its_description_says():
    """Built once more from HMAC and AES-GCM, without any of our functions."""

    def framed_by_hand(*parts: bytes) -> bytes:
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)

    info = framed_by_hand(b"langmem-isolated/v1", b"key id", b"")
    extracted = hmac.digest(bytes(32), KEY, "sha256")
    key_id = hmac.digest(extracted, info + b"\x01", "sha256")[:16]
    nonce, place = bytes(range(12)), framed_by_hand(b"alice", b"tutor")
    ciphertext = sealing.AESGCM(KEY).encrypt(nonce, PLAINTEXT, b"\x10" + place)

    sealed = seal(SealingKey(KEY), PLACE, PLAINTEXT, nonce=nonce)

    assert sealed == b"\x10" + key_id + nonce + ciphertext
    assert tag_of(sealed) == ciphertext[-16:]


# What is bound


@given(parts)
def test_framing_can_be_taken_apart_so_different_parts_never_join_alike(taken: list):
    assert unframed(framed(*taken)) == taken


@given(parts, parts)
def test_framing_composes(first: list, second: list):
    assert framed(*first, *second) == framed(*first) + framed(*second)


@given(addresses)
def test_the_associated_data_tells_the_whole_address(address: tuple):
    owner, kind, parent, key = address

    level, project, user, module, kind_bytes, *rest = unframed(associated_data(*address))

    ids_told = (part and part.decode() for part in (project, user, module))
    assert Owner(Level(level[0]), *ids_told) == owner
    assert (Kind(int.from_bytes(kind_bytes)), *rest) == (kind, parent, key)


@given(addresses, addresses)
@example(
    (Owner(Level.PRIVATE, "p", "a", "bc"), Kind.MESSAGE, b"x", b"y"),
    (Owner(Level.PRIVATE, "p", "ab", "c"), Kind.MESSAGE, b"x", b"y"),
)
@example(
    (Owner(Level.PRIVATE, "p", "a", "b"), Kind.MESSAGE, b"xy", b""),
    (Owner(Level.PRIVATE, "p", "a", "b"), Kind.MESSAGE, b"x", b"y"),
)
@example(
    (Owner(Level.USER, "p", "a"), Kind.MESSAGE, b"x", b"y"),
    (Owner(Level.MODULE, "p", None, "a"), Kind.MESSAGE, b"x", b"y"),
)
def test_different_addresses_are_bound_differently(one: tuple, other: tuple):
    assert (associated_data(*one) == associated_data(*other)) == (one == other)


@given(owners, owners)
def test_different_owners_have_different_scope_ids_and_keys(one: Owner, other: Owner):
    directory, naming, sealing = bytes(32), bytes([1]) * 32, [bytes([2]) * 32]
    first, second = (
        ScopeKeys(owner, scope_digest(directory, owner), 1, naming, sealing)
        for owner in (one, other)
    )
    same = one == other

    assert (first.scope_id == second.scope_id) == same
    assert (first.sealing.id == second.sealing.id) == same
    assert (first.pseudonym(Kind.SESSION, b"x") == second.pseudonym(Kind.SESSION, b"x")) == same
    assert (first.row_mac(b"x") == second.row_mac(b"x")) == same


def test_modules_of_a_user_share_a_principal_and_nobody_else_does():
    alice = Scope("alice", "tutor")
    same = [Owner.private(alice), Owner.private(Scope("alice", "planner"))]
    others = [
        Owner.private(Scope("bob", "tutor")),
        Owner.private(Scope("alice", "tutor", project_id="school")),
        Owner(Level.MODULE, "default", None, "alice"),
        Owner(Level.PROJECT, "alice"),
        Owner(Level.ANONYMOUS, "default", "alice"),
        Owner(Level.ANONYMOUS, "default", "alice", "tutor"),
    ]

    assert len({owner.principal() for owner in same}) == 1
    assert len({owner.principal() for owner in [same[0], *others]}) == 1 + len(others)


def test_an_owner_shows_no_id():
    assert "alice" not in repr(Owner.private(Scope("alice", "tutor")))


@given(st.lists(st.binary(max_size=4), min_size=2, max_size=2, unique=True), st.binary(max_size=4))
def test_subkeys_and_digests_differ_by_purpose_and_context(two: list, same: bytes):
    one, other = two

    assert derive(KEY, one, same) != derive(KEY, other, same)
    assert derive(KEY, same, one) != derive(KEY, same, other)
    assert digest(KEY, one, same) != digest(KEY, other, same)
    assert derive(KEY, one) != derive(bytes(32), one)
    assert digest(KEY, one) != digest(bytes(32), one)


def test_equal_compares_whole_values():
    assert equal(b"same", b"same")
    assert not equal(b"same", b"samE")
    assert not equal(b"same", b"same longer")


# Sealing and opening


@given(st.binary(max_size=3000) | st.text(max_size=800).map(lambda t: (t * 3).encode()))
def test_what_is_sealed_opens_to_the_same(plaintext: bytes):
    key = SealingKey(KEY)

    sealed = seal(key, PLACE, plaintext)

    assert opened(sealed, key) == plaintext
    assert len(sealed) <= 45 + len(plaintext)


def test_a_short_record_is_45_bytes_longer_than_its_plaintext(key):
    assert len(seal(key, PLACE, PLAINTEXT)) == 45 + len(PLAINTEXT)


def test_only_what_shrinks_is_deflated(key):
    random, repetitive = os.urandom(4096), b"la" * 2048

    assert seal(key, PLACE, random)[0] == PLAIN
    assert seal(key, PLACE, repetitive)[0] == DEFLATED
    assert seal(key, PLACE, repetitive[:1023])[0] == PLAIN
    assert len(seal(key, PLACE, repetitive)) < 200


def test_no_two_records_share_a_nonce_or_look_alike(key):
    sealed = [seal(key, PLACE, PLAINTEXT) for _ in range(2000)]

    assert len({record[17:29] for record in sealed}) == 2000
    assert not any(one[29:] == other[29:] for one, other in pairwise(sealed))


def test_every_flipped_bit_is_noticed(key):
    sealed = seal(key, PLACE, PLAINTEXT)

    for bit in range(8 * len(sealed)):
        with pytest.raises(RecordDoesNotOpen):
            opened(flipped(sealed, bit), key)


@given(st.binary(max_size=2048) | st.integers(1, 99).map(lambda n: b"word " * 30 * n), st.data())
def test_any_flipped_bit_is_noticed(plaintext: bytes, data):
    key = SealingKey(KEY)
    sealed = seal(key, PLACE, plaintext)

    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))

    with pytest.raises(RecordDoesNotOpen):
        opened(flipped(sealed, bit), key)


def test_a_record_opens_nowhere_else(key):
    sealed = seal(key, PLACE, PLAINTEXT)

    places = [b"", PLACE[:-1], PLACE + b"\0", framed(b"alicet", b"utor"), framed(b"bob", b"tutor")]
    for place in [*places, *(flipped(PLACE, bit) for bit in range(8 * len(PLACE)))]:
        with pytest.raises(RecordDoesNotOpen, match="fails authentication"):
            opened(sealed, key, place=place)


def test_a_record_cut_off_anywhere_does_not_open(key):
    for sealed in (seal(key, PLACE, PLAINTEXT), seal(key, PLACE, b"")):
        for length in range(len(sealed)):
            with pytest.raises(RecordDoesNotOpen):
                opened(sealed[:length], key)
        with pytest.raises(RecordDoesNotOpen):
            opened(sealed + b"\0", key)


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x10", b"\x11"]), st.booleans())
def test_bytes_that_were_never_sealed_do_not_open(data: bytes, form: bytes, knows_the_id: bool):
    key = SealingKey(KEY)

    with pytest.raises(RecordDoesNotOpen):
        opened(form + (key.id if knows_the_id else b"") + data, key)


@pytest.mark.parametrize("plaintext", [PLAINTEXT, zlib.compress(PLAINTEXT), b"la" * 2048])
def test_the_format_byte_cannot_be_swapped(key, plaintext: bytes):
    sealed = seal(key, PLACE, plaintext)

    for form in set(range(256)) - {sealed[0]}:
        with pytest.raises(RecordDoesNotOpen) as caught:
            opened(bytes([form]) + sealed[1:], key)
        expected = "fails authentication" if form in (PLAIN, DEFLATED) else "form is unknown"
        assert expected in str(caught.value)


def test_a_record_names_its_key_and_opens_with_that_one_only(key):
    other = SealingKey(bytes(32))
    sealed = seal(key, PLACE, PLAINTEXT)

    assert opened(sealed, other, key) == PLAINTEXT
    with pytest.raises(RecordDoesNotOpen, match="not one of this owner's") as caught:
        opened(sealed, other)
    assert caught.value.key_id == key.id
    with pytest.raises(RecordDoesNotOpen, match="fails authentication"):
        open_sealed({key.id: other}, PLACE, sealed, kind="message")


def test_a_refusal_names_the_kind_and_shows_no_content(key):
    plaintext = b"canary " * 300
    sealed = seal(key, PLACE, plaintext)
    wrong = [flipped(sealed, 8 * 50), b"\x20" + sealed[1:], sealed[:40], flipped(sealed, 8)]

    for record in wrong:
        with pytest.raises(RecordDoesNotOpen, match="message record does not open") as caught:
            opened(record, key)
        assert caught.value.kind == "message"
        assert caught.value.__cause__ is None
        assert_shows_none_of(caught.value, [b"canary", KEY, sealed[29:], PLACE])


# Keys


@pytest.mark.parametrize("length", [0, 16, 24, 31, 33, 64])
def test_a_key_is_32_bytes(length: int):
    with pytest.raises(ValueError, match=f"must be 32 bytes, got {length}$"):
        SealingKey(bytes(length))


def secret_holders() -> list:
    owner = Owner.private(Scope("alice", "tutor"))
    return [
        SealingKey(KEY),
        LocalRootKey(KEY),
        ScopeKeys(owner, bytes(16), 1, KEY, [KEY]),
    ]


@pytest.mark.parametrize("holder", secret_holders(), ids=lambda holder: type(holder).__name__)
def test_a_key_shows_nothing_and_goes_nowhere(holder):
    owner = Owner.private(Scope("alice", "tutor")).framed()
    subkeys = [derive(KEY, b"root key"), *(derive(KEY, p, owner) for p in (b"names", b"records"))]

    assert_shows_none_of(holder, [KEY, *subkeys])
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="keys are not pickled"):
            pickle.dumps(holder, protocol)
    with pytest.raises(TypeError, match="keys are not pickled"):
        copy.deepcopy(holder)
    with pytest.raises(TypeError, match="__dict__"):
        vars(holder)


@given(st.binary(max_size=2048), st.binary(max_size=300), st.booleans())
def test_many_of_one_place_open_as_one_by_one(plaintext: bytes, address: bytes, compress):
    key, other = SealingKey(KEY), SealingKey(bytes(32))
    sealed = seal(key, associated_data_of(PLACE, address), plaintext, compress=compress)

    open_one = opener({other.id: other, key.id: key}, PLACE, kind="item")

    assert open_one(address, sealed) == plaintext


@pytest.mark.parametrize("address", [b"", bytes(16), bytes(255), bytes(256), "text", 7, None])
@pytest.mark.parametrize("length", [0, 16, 17, 29, 44, 60, None])
def test_opening_many_refuses_what_opening_one_refuses_and_says_the_same(key, address, length):
    sealed = seal(key, associated_data_of(PLACE, b"another"), PLAINTEXT)[:length]
    open_one = opener({key.id: key}, PLACE, kind="item")

    with pytest.raises(RecordDoesNotOpen) as many:
        open_one(address, sealed)

    # What Python tells of an error on its way may hold stored bytes.
    assert many.value.__cause__ is many.value.__context__ is None or many.value.__suppress_context__
    if type(address) is bytes:
        with pytest.raises(RecordDoesNotOpen) as one:
            open_sealed({key.id: key}, associated_data_of(PLACE, address), sealed, kind="item")
        assert str(many.value) == str(one.value)
        assert many.value.key_id == one.value.key_id


@pytest.mark.parametrize("sealed", ["text", 7, 1.5, None])
def test_opening_many_refuses_what_is_not_bytes(key, sealed):
    with pytest.raises(RecordDoesNotOpen):
        opener({key.id: key}, PLACE, kind="item")(b"", sealed)


@given(st.integers(0, 8 * (61 + 16) - 1))
def test_opening_many_notices_any_flipped_bit(bit: int):
    key = SealingKey(KEY)
    sealed = seal(key, associated_data_of(PLACE, b"address"), PLAINTEXT)

    with pytest.raises(RecordDoesNotOpen):
        opener({key.id: key}, PLACE, kind="item")(
            b"address", flipped(sealed, bit % (8 * len(sealed)))
        )


def test_what_is_not_to_be_compressed_is_not(key):
    sealed = seal(key, PLACE, b"a" * 5000, compress=False)

    assert len(sealed) == 5045
    assert opened(sealed, key) == b"a" * 5000
