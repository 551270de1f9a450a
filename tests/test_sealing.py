import copy
import gc
import hmac
import json
import os
import pickle
import threading
import zlib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from langmem_isolated import Scope
from langmem_isolated._codecs.headers import Header, encode_header
from langmem_isolated._codecs.messages import encode_message
from langmem_isolated._crypto import sealing
from langmem_isolated._crypto.directory import DirectoryKey
from langmem_isolated._crypto.kinds import SERVER_HELD, Kind
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.seal_counter import SealCounter
from langmem_isolated._crypto.sealing import (
    DEFLATED,
    PLAIN,
    DigestKey,
    SealingKey,
    associated_data_of,
    derive,
    digest,
    equal,
    framed,
    nonces,
    open_all,
    open_sealed,
    opener,
    seal,
)
from langmem_isolated._crypto.secret_bytes import SecretBytes
from langmem_isolated._storage.container_state import ContainerState, header_key
from langmem_isolated._storage.expiry import expiry_mac
from langmem_isolated._storage.wrapped_keys import PrincipalKeys
from langmem_isolated.errors import KeyExhausted, RecordDoesNotOpen, ScopeError
from langmem_isolated.root_keys import LocalRootKey
from tests.spellings import assert_shows_none_of

VECTORS = Path(__file__).parent / "vectors"
KEY = SecretBytes(bytes(range(100, 132)))
BIRTH = bytes(range(200, 216))
PLACE = framed(b"alice", b"tutor")
PLAINTEXT = b"What is 7 times 6?"

ids = st.text(st.sampled_from("ab:1é"), min_size=1, max_size=4)
parts = st.lists(st.none() | st.binary(max_size=6), max_size=6)
owners = st.one_of(
    st.builds(Owner, st.just(Level.PRIVATE), ids, ids, ids),
    st.builds(Owner, st.just(Level.USER), ids, ids),
    st.builds(Owner, st.just(Level.MODULE), ids, st.none(), ids),
    st.builds(Owner, st.just(Level.PROJECT), ids),
    st.builds(Owner, st.just(Level.ANONYMOUS), ids, module=st.none() | ids, guest=ids),
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
    keys = ScopeKeys(owner, bytes(16), 1, BIRTH, SecretBytes(bytes(32)), [SecretBytes(bytes(32))])
    return keys.aad_prefix(kind, parent) + framed(key)


def flipped(data: bytes, bit: int) -> bytes:
    return bytes(byte ^ (1 << bit % 8 if n == bit // 8 else 0) for n, byte in enumerate(data))


def frozen(name: str) -> dict:
    return json.loads((VECTORS / f"{name}.json").read_text())


def as_json(value: object) -> object:
    """Bytes and keys as hex, tuples as lists."""

    def as_hex(part: bytes | SecretBytes) -> str:
        return (part.reveal() if isinstance(part, SecretBytes) else part).hex()

    return json.loads(json.dumps(value, default=as_hex))


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


# A key's row without its principal, and a scope's row without its MAC.
FROZEN_KEY = (2, 1, 1, 1, 1, None, b"wrapped", None, None, "local:key", 1_900_000_000_000_000, None)
FROZEN_SCOPE = (
    *(b"s" * 16, b"p" * 16, 1, 1, BIRTH, b"o" * 16, None, None, 1, b"sealed"),
    1_900_000_000_000_000,
)


def remade_scope() -> dict:
    directory_key, naming = SecretBytes(bytes([1]) * 32), SecretBytes(bytes([2]) * 32)
    sealing = [SecretBytes(bytes([3]) * 32), SecretBytes(bytes([4]) * 32)]
    directory = DirectoryKey(directory_key)
    owners = [
        Owner(Level.PRIVATE, "default", "alice", "tutor"),
        Owner(Level.USER, "default", "alice"),
        Owner(Level.MODULE, "default", None, "tutor"),
        Owner(Level.PROJECT, "default"),
        Owner(Level.ANONYMOUS, "default", module="tutor", guest="Zoë"),
    ]
    keys = ScopeKeys(owners[0], directory.scope_id_of(owners[0]), 1, BIRTH, naming, sealing)
    session = keys.pseudonym(Kind.SESSION, b"monday")
    sequence, nonce = (0).to_bytes(8), bytes(range(12))
    times = {"created_at": 1_900_000_000_000_000, "updated_at": 1_900_000_000_000_001}
    life = {"birth": b"b" * 16, "generation": b"generate", "members": b"m" * 48}
    counts = {"next_sequence": 2, "count": 2, "size": 200, "revision": 3, "oldest_key": 2}
    state = ContainerState(
        row_mac=b"",
        newest=b"n" * 16,
        channels=None,
        state=1,
        is_pinned=0,
        idle_lifetime=None,
        absolute_lifetime=7,
        expires_at=None,
        **times,
        **life,
        **counts,
    )
    members = [
        keys.members.part(Kind.MESSAGE.framed_bytes, session, sequence, bytes(8), b"text"),
        keys.members.part(Kind.CHECKPOINT.framed_bytes, session, sequence, bytes(8), None, b""),
    ]
    message = encode_message(_human("What is 7 times 6?"))
    header = encode_header(Header("monday", "Tables", "general"))
    place = keys.aad_prefix(Kind.MESSAGE, session, state.birth) + framed(sequence)
    header_place = keys.aad_prefix(Kind.SESSION, b"", state.birth) + framed(
        header_key(session, state)
    )
    scope_life = owners[0].framed() + framed(BIRTH)
    policy_place = keys.aad_prefix(Kind.POLICY, session) + framed(sequence)
    principal = PrincipalKeys(1, naming, sealing, 2)
    scope_key, scope_place = principal.entry(keys.scope_id, BIRTH)
    return {
        "directory_key": directory_key,
        "directory_id": directory.id,
        "birth": BIRTH,
        "naming_key": naming,
        "sealing_keys": sealing,
        "root_key_id": LocalRootKey(KEY.reveal()).key_id,
        "owners": [
            {"level": int(o.level), "project": o.project, "user": o.user, "module": o.module,
             "guest": o.guest, "framed": o.framed(), "principal": o.principal(),
             "scope_id": directory.scope_id_of(o), "principal_id": directory.principal_of(o),
             "project_id": directory.project_of(o), "module_id": directory.module_of(o)}
            for o in owners
        ],
        "key_set_mac": directory.key_set_mac(b"p" * 16, 1, 1, *FROZEN_KEY),
        "scope_mac": directory.scope_mac(*FROZEN_SCOPE),
        "kinds": {kind.label: int(kind) for kind in Kind if kind <= Kind.VECTOR},
        "session_name": session,
        "message_alias": keys.pseudonym(Kind.MESSAGE, session, b"run-1"),
        "row_mac": state.computed_mac(Kind.SESSION, keys, session),
        "row_mac_with_expiry": state._replace(expires_at=8).computed_mac(
            Kind.SESSION, keys, session
        ),
        "members": [part.to_bytes(32) for part in members],
        "masked": keys.members.masked(sum(members), nonce=bytes(16)),
        "expiry_mac": expiry_mac(keys, Kind.ITEM, (b"parent", b"key"), 7, 8),
        "message_place": place,
        "message": message,
        "message_sealed": seal(keys.sealing, place, message, nonce=nonce),
        "header_place": header_place,
        "header": header,
        "header_sealed": seal(keys.sealing, header_place, header, nonce=nonce),
        "message_sealed_by_the_older_key": seal(
            keys.opening[SealingKey(derive(sealing[0], b"records", scope_life)).id],
            place, message, nonce=nonce,
        ),
        "server_held": sorted(SERVER_HELD),
        "policy_place": policy_place,
        "policy_sealed": seal(keys.server_held, policy_place, b"keep", nonce=nonce),
        "scope_place": scope_place,
        "scope_sealed": seal(scope_key, scope_place, b'[1, "default"]', nonce=nonce),
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
    reserved = (
        *("grant", "profile", "inbox", "blind_index", "audit", "policy", "claim", "receipt"),
        *("node_cache", "usage", "store_note"),
    )
    later |= {name: number for number, name in enumerate(reserved, start=14)}

    assert {kind.label: int(kind) for kind in Kind} == frozen("scope_v1")["kinds"] | later


@pytest.mark.parametrize("form", ["plain", "deflated"])
def test_a_frozen_record_opens(form: str):
    vector = frozen("sealing_v1")[form]
    key, place, sealed, plaintext = (
        bytes.fromhex(vector[name]) for name in ("key", "place", "sealed", "plaintext")
    )

    assert sealed[0] == {"plain": PLAIN, "deflated": DEFLATED}[form]
    assert opened(sealed, SealingKey(SecretBytes(key)), place=place) == plaintext


def test_frozen_records_of_a_scope_open_with_its_keys():
    vector = frozen("scope_v1")
    owner = vector["owners"][0]
    keys = ScopeKeys(
        Owner(Level(owner["level"]), owner["project"], owner["user"], owner["module"]),
        bytes.fromhex(owner["scope_id"]),
        1,
        bytes.fromhex(vector["birth"]),
        SecretBytes(bytes.fromhex(vector["naming_key"])),
        [SecretBytes(bytes.fromhex(key)) for key in vector["sealing_keys"]],
    )
    session = keys.pseudonym(Kind.SESSION, b"monday")
    place, first = keys.aad_prefix(Kind.MESSAGE, session, b"b" * 16), (0).to_bytes(8)

    for name in ("message_sealed", "message_sealed_by_the_older_key"):
        sealed = bytes.fromhex(vector[name])
        assert keys.open(place, first, sealed, Kind.MESSAGE).hex() == vector["message"]
    sealed = bytes.fromhex(vector["header_sealed"])
    header_place = keys.aad_prefix(Kind.SESSION, b"", b"b" * 16)
    header = keys.open(header_place, session + (3).to_bytes(8), sealed, Kind.SESSION)
    assert header.hex() == vector["header"]


def two_keys(sealing: bytes, naming: bytes = b"n") -> ScopeKeys:
    owner = Owner(Level.PRIVATE, "default", "alice", "tutor")
    secrets = (SecretBytes(key * 32) for key in (naming, sealing))
    naming_key, sealing_key = secrets
    return ScopeKeys(owner, bytes(16), 1, BIRTH, naming_key, [sealing_key])


@pytest.mark.parametrize("kind", sorted(SERVER_HELD))
def test_what_the_server_needs_opens_without_the_sealing_keys(kind: Kind):
    keys = two_keys(b"1")
    place = keys.aad_prefix(kind, b"parent")

    sealed = keys.sealer(kind)(place, b"key", PLAINTEXT)

    assert two_keys(b"2").open(place, b"key", sealed, kind) == PLAINTEXT
    assert two_keys(b"2").opener(place, kind)(b"key", sealed) == PLAINTEXT
    for other in (two_keys(b"1", naming=b"o"), two_keys(b"2", naming=b"o")):
        with pytest.raises(RecordDoesNotOpen):
            other.open(place, b"key", sealed, kind)


@pytest.mark.parametrize("kind", sorted(set(Kind) - SERVER_HELD))
def test_content_does_not_open_with_what_the_server_holds(kind: Kind):
    keys = two_keys(b"1")
    place = keys.aad_prefix(kind, b"parent")
    sealed = keys.sealer(kind)(place, b"key", PLAINTEXT)

    with pytest.raises(RecordDoesNotOpen):
        two_keys(b"2").open(place, b"key", sealed, kind)
    with pytest.raises(RecordDoesNotOpen):
        keys.open(place, b"key", keys.seal_for_server(place, b"key", PLAINTEXT), kind)


@pytest.mark.parametrize("length", [0, 15, 16, 47])
def test_a_sum_that_was_cut_off_is_not_that_of_no_records(length: int):
    members = two_keys(b"1").members

    assert not members.is_of(bytes(length), 0)
    assert not members.is_of(members.masked(0)[:length], 0)


@given(st.lists(st.integers(0, 3), max_size=8))
def test_a_sum_is_unmasked_whatever_was_masked_before(order: list[int]):
    members = two_keys(b"1").members
    stored = [members.masked(7**number, nonce=bytes([number] * 16)) for number in range(4)]

    assert [members.unmasked(stored[number]) for number in order] == [7**n for n in order]
    assert all(members.is_of(stored[number], 7**number) for number in order)


def test_a_sealed_record_is_what_its_description_says():
    """Built once more from HMAC and AES-GCM, without any of our functions."""

    def framed_by_hand(*parts: bytes) -> bytes:
        return b"".join(len(part).to_bytes(4, "big") + part for part in parts)

    info = framed_by_hand(b"langmem-isolated/v1", b"key id", b"")
    extracted = hmac.digest(bytes(32), KEY.reveal(), "sha256")
    key_id = hmac.digest(extracted, info + b"\x01", "sha256")[:16]
    nonce, place = bytes(range(12)), framed_by_hand(b"alice", b"tutor")
    ciphertext = sealing.AESGCM(KEY.reveal()).encrypt(nonce, PLAINTEXT, b"\x10" + place)

    sealed = seal(SealingKey(KEY), PLACE, PLAINTEXT, nonce=nonce)

    assert sealed == b"\x10" + key_id + nonce + ciphertext


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

    level, project, user, module, guest, birth, kind_bytes, *rest = unframed(
        associated_data(*address)
    )

    assert birth == BIRTH
    ids_told = (part and part.decode() for part in (project, user, module, guest))
    assert Owner(Level(level[0]), *ids_told) == owner
    assert (Kind(int.from_bytes(kind_bytes)), *rest) == (kind, parent, b"", key)


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
    directory = DirectoryKey(SecretBytes(bytes(32)))
    naming, sealing = SecretBytes(bytes([1]) * 32), [SecretBytes(bytes([2]) * 32)]
    first, second = (
        ScopeKeys(owner, directory.scope_id_of(owner), 1, BIRTH, naming, sealing)
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
        Owner.anonymous("alice", project="default"),
        Owner.anonymous("tutor", project="default"),
        Owner.anonymous("alice", project="school"),
    ]

    assert len({owner.principal() for owner in same}) == 1
    assert len({owner.principal() for owner in [same[0], *others]}) == 1 + len(others)


def test_guests_are_as_far_apart_as_users_and_one_guest_is_one_principal_in_all_modules():
    """The id of a guest is no user's, no module's and no project's."""
    guest = Owner.anonymous("x", project="p")
    modules = [Owner.anonymous("x", module=module, project="p") for module in ("m", "x")]
    others = [
        Owner.anonymous("y", project="p"),
        Owner.anonymous("x", project="q"),
        Owner(Level.USER, "p", "x"),
        Owner(Level.MODULE, "p", module="x"),
        Owner(Level.PROJECT, "x"),
        Owner.private(Scope("x", "x", project_id="p")),
    ]
    directory = DirectoryKey(KEY)

    assert {directory.principal_of(owner) for owner in (guest, *modules)} == {
        directory.principal_of(guest)
    }
    apart = [guest, *modules, *others]
    assert len({directory.scope_id_of(owner) for owner in apart}) == len(apart)
    assert directory.principal_of(guest) not in {directory.principal_of(one) for one in others}


@pytest.mark.parametrize("guest", ["", "a\0b", "x" * 256, "e\u0301", 7, None])
def test_a_guest_without_a_proper_id_is_refused(guest):
    with pytest.raises(ScopeError, match="guest"):
        Owner.anonymous(guest, project="default")


@pytest.mark.parametrize(
    ("level", "ids"),
    [
        (Level.PRIVATE, {"user": "a"}),
        (Level.PRIVATE, {"user": "a", "module": "b", "guest": "c"}),
        (Level.USER, {"user": "a", "module": "b"}),
        (Level.USER, {}),
        (Level.MODULE, {"user": "a"}),
        (Level.PROJECT, {"module": "a"}),
        (Level.ANONYMOUS, {}),
        (Level.ANONYMOUS, {"user": "a"}),
        (Level.ANONYMOUS, {"guest": "a", "user": "a"}),
    ],
)
def test_an_owner_has_the_ids_of_its_level_and_no_others(level: Level, ids: dict):
    with pytest.raises(ValueError, match=f"of level {level.name} has"):
        Owner(level, "default", **ids)


def test_an_owner_shows_no_id():
    assert "alice" not in repr(Owner.private(Scope("alice", "tutor")))


@given(st.lists(st.binary(max_size=4), min_size=2, max_size=2, unique=True), st.binary(max_size=4))
def test_subkeys_and_digests_differ_by_purpose_and_context(two: list, same: bytes):
    one, other = two

    assert derive(KEY, one, same) != derive(KEY, other, same)
    assert derive(KEY, same, one) != derive(KEY, same, other)
    assert digest(KEY, one, same) != digest(KEY, other, same)
    assert derive(KEY, one) != derive(SecretBytes(bytes(32)), one)
    assert digest(KEY, one) != digest(SecretBytes(bytes(32)), one)


@given(st.lists(st.binary(max_size=6), max_size=3), st.lists(st.binary(max_size=300)))
def test_digests_of_several_are_those_of_one_by_one(same: list, others: list):
    key = DigestKey(KEY)

    digest_of = key.digests(*same)

    assert [digest_of(part) for part in others] == [digest(KEY, *same, part) for part in others]


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


def test_nonces_that_are_drawn_at_once_differ():
    drawn = [*nonces(1000), *nonces(1000)]

    assert len(set(drawn)) == 2000
    assert {len(nonce) for nonce in drawn} == {12}


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
    other = SealingKey(SecretBytes(bytes(32)))
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
        assert_shows_none_of(caught.value, [b"canary", KEY.reveal(), sealed[29:], PLACE])


# Keys


@pytest.mark.parametrize("length", [0, 16, 24, 31, 33, 64])
def test_a_key_is_32_bytes(length: int):
    with pytest.raises(ValueError, match=f"must be 32 bytes, got {length}$"):
        SealingKey(SecretBytes(bytes(length)))


def secret_holders() -> list:
    owner = Owner.private(Scope("alice", "tutor"))
    return [
        SealingKey(KEY),
        LocalRootKey(KEY.reveal()),
        ScopeKeys(owner, bytes(16), 1, BIRTH, KEY, [KEY]),
        DirectoryKey(KEY),
        KEY,
    ]


@pytest.mark.parametrize("holder", secret_holders(), ids=lambda holder: type(holder).__name__)
def test_a_key_shows_nothing_and_goes_nowhere(holder):
    owner = Owner.private(Scope("alice", "tutor")).framed()
    life = owner + framed(BIRTH)
    subkeys = [
        *(derive(KEY, purpose) for purpose in (b"root key", b"key sets", b"scope rows")),
        *(derive(KEY, b"names", owner), derive(KEY, b"records", life), derive(KEY, b"heads", life)),
    ]

    assert_shows_none_of(holder, [key.reveal() for key in (KEY, *subkeys)])
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match="keys are not pickled"):
            pickle.dumps(holder, protocol)
    with pytest.raises(TypeError, match="keys are not pickled"):
        copy.deepcopy(holder)
    with pytest.raises(TypeError, match="__dict__"):
        vars(holder)


def test_nothing_of_a_scopes_former_life_opens_in_its_next_and_names_stay():
    owner, naming, sealing = Owner.private(Scope("alice", "tutor")), KEY, [SecretBytes.random()]
    former, later = (
        ScopeKeys(owner, bytes(16), 1, birth * 16, naming, sealing) for birth in (b"1", b"2")
    )
    sealed = former.seal(former.aad_prefix(Kind.ITEM, b""), b"key", b"text")

    assert former.pseudonym(Kind.ITEM, b"x") == later.pseudonym(Kind.ITEM, b"x")
    assert former.row_mac(b"x") != later.row_mac(b"x")
    for prefix in (former.aad_prefix(Kind.ITEM, b""), later.aad_prefix(Kind.ITEM, b"")):
        with pytest.raises(RecordDoesNotOpen):
            later.open(prefix, b"key", sealed, Kind.ITEM)
    # Not by the key alone, either: the birth is part of the associated data, too.
    with pytest.raises(RecordDoesNotOpen, match="fails authentication"):
        former.open(later.aad_prefix(Kind.ITEM, b""), b"key", sealed, Kind.ITEM)


# How often a key seals


class Log:
    """Keeps what a counter tells."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def batch_ended(self) -> None:
        self.told.append("a batch ended")

    def half_used(self) -> None:
        self.told.append("half is used")

    def forgotten(self, seals: int) -> None:
        self.told.append(seals)


class FewSeals(SealCounter):
    """A counter of a key that is good for 20 seals."""

    BATCH, WARN_AT, REFUSE_AT = 4, 10, 20


def test_every_seal_is_counted_and_a_key_refuses_more_than_it_may():
    log = Log()
    counter = FewSeals(3, log)
    key = SealingKey(KEY, counter)

    for number in range(1, 18):
        sealed = seal(key, PLACE, PLAINTEXT)
        if number % 5 == 0:
            assert counter.collect() == 5
    for _ in range(3):
        with pytest.raises(KeyExhausted, match=r"20 records.*rotate"):
            seal(key, PLACE, PLAINTEXT)

    assert counter.collect() == 2
    assert opened(sealed, key) == PLAINTEXT
    assert log.told.count("half is used") >= 1
    assert "a batch ended" in log.told
    with pytest.raises(KeyExhausted):
        seal(SealingKey(KEY, FewSeals(20)), PLACE, PLAINTEXT)


def test_a_key_warns_from_half_of_its_seals_on_and_not_before():
    log = Log()
    counter = FewSeals(0, log)
    key = SealingKey(KEY, counter)

    for _ in range(12):
        assert "half is used" not in log.told
        seal(key, PLACE, PLAINTEXT)
    seal(key, PLACE, PLAINTEXT)

    assert "half is used" in log.told


def test_what_was_not_collected_is_told_when_the_key_is_let_go_of():
    log = Log()
    key = SealingKey(KEY, SealCounter(0, log))
    for _ in range(3):
        seal(key, PLACE, PLAINTEXT)

    del key
    gc.collect()

    assert log.told == [3]


def test_seals_of_many_threads_are_all_counted():
    counter = SealCounter()
    key = SealingKey(KEY, counter)

    def work() -> None:
        for _ in range(30_000):
            seal(key, PLACE, b"")

    collected = []
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        collected.append(counter.collect())
    collected.append(counter.collect())

    assert sum(collected) == 120_000


def test_the_bound_is_that_of_nist_and_leaves_room_for_what_is_not_counted():
    assert SealCounter.WARN_AT == 2**31
    assert SealCounter.REFUSE_AT == 2**32 - 2**24
    assert 256 * SealCounter.BATCH == 2**24


def opener_of_all(keys: Any, prefix: bytes, *, kind: str) -> Any:
    """As :func:`opener`, by way of a list."""
    return lambda key, sealed: open_all(keys, prefix, [(key, sealed)], kind=kind)[0]


both_openers = pytest.mark.parametrize("opener", [opener, opener_of_all])


@both_openers
@given(st.binary(max_size=2048), st.binary(max_size=300), st.booleans())
def test_many_of_one_place_open_as_one_by_one(opener, plaintext: bytes, address: bytes, compress):
    key, other = SealingKey(KEY), SealingKey(SecretBytes(bytes(32)))
    sealed = seal(key, associated_data_of(PLACE, address), plaintext, compress=compress)

    open_one = opener({other.id: other, key.id: key}, PLACE, kind="item")

    assert open_one(address, sealed) == plaintext


records = st.tuples(st.binary(max_size=9), st.integers(0, 1_100), st.booleans())


@given(st.lists(records, max_size=5), st.none() | st.integers(0, 4), st.integers(0, 8 * 29 - 1))
def test_all_of_one_place_open_as_one_by_one_or_none_does(written, changed, bit: int):
    key, other = SealingKey(KEY), SealingKey(SecretBytes(bytes(32)))
    keys = {other.id: other, key.id: key}
    rows = [
        (at, seal(other if is_other else key, associated_data_of(PLACE, at), b"a" * length))
        for at, length, is_other in written
    ]
    if changed is None or changed >= len(rows):
        assert open_all(keys, PLACE, rows, kind="item") == [b"a" * size for _, size, _ in written]
        return
    at, sealed = rows[changed]
    rows[changed] = at, flipped(sealed, bit)

    with pytest.raises(RecordDoesNotOpen):
        open_all(keys, PLACE, rows, kind="item")


@both_openers
@pytest.mark.parametrize("address", [b"", bytes(16), bytes(255), bytes(256), "text", 7, None])
@pytest.mark.parametrize("length", [0, 16, 17, 29, 44, 60, None])
def test_opening_many_refuses_what_opening_one_refuses_and_says_the_same(
    key, opener, address, length
):
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


@both_openers
@pytest.mark.parametrize("sealed", ["text", 7, 1.5, None])
def test_opening_many_refuses_what_is_not_bytes(key, opener, sealed):
    with pytest.raises(RecordDoesNotOpen):
        opener({key.id: key}, PLACE, kind="item")(b"", sealed)


@both_openers
@given(st.integers(0, 8 * (61 + 16) - 1))
def test_opening_many_notices_any_flipped_bit(opener, bit: int):
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
