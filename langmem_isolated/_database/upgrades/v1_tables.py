"""Step to version 1: the tables of the first release. Released, and never edited."""

from langmem_isolated._database.upgrades.step import Step

_SCRIPT = """
CREATE TABLE @schema.audit (
    shard SMALLINT NOT NULL,
    sequence BIGINT NOT NULL,
    scope_id @bytes,
    created_at BIGINT NOT NULL,
    sealed @bytes NOT NULL,
    hash @bytes NOT NULL,
    PRIMARY KEY (shard, sequence)
)@clustered;
CREATE INDEX audit_scope ON @schema.audit (scope_id, created_at) WHERE scope_id IS NOT NULL;
CREATE TABLE @schema.audit_chains (
    shard SMALLINT NOT NULL,
    first_sequence BIGINT NOT NULL,
    cut_hash @bytes NOT NULL,
    next_sequence BIGINT NOT NULL,
    hash @bytes NOT NULL,
    settings @bytes,
    row_mac @bytes NOT NULL,
    PRIMARY KEY (shard)
)@clustered;
CREATE TABLE @schema.erasures (
    principal @bytes NOT NULL,
    incarnation INTEGER NOT NULL,
    began_at BIGINT NOT NULL,
    finished_at BIGINT,
    sealed @bytes NOT NULL,
    PRIMARY KEY (principal, incarnation, began_at)
)@clustered;
CREATE UNIQUE INDEX erasures_unfinished ON @schema.erasures (principal, incarnation)
    WHERE finished_at IS NULL;
CREATE TABLE @schema.installation (
    id SMALLINT NOT NULL,
    version INTEGER NOT NULL,
    installation_id @bytes NOT NULL,
    directory_id @bytes,
    rotating_since BIGINT,
    PRIMARY KEY (id)
);
CREATE TABLE @schema.key_sets (
    principal @bytes NOT NULL,
    revision BIGINT NOT NULL,
    mac @bytes NOT NULL,
    PRIMARY KEY (principal)
)@clustered;
CREATE TABLE @schema.keys (
    principal @bytes NOT NULL,
    purpose SMALLINT NOT NULL,
    version INTEGER NOT NULL,
    state SMALLINT NOT NULL,
    is_primary SMALLINT NOT NULL,
    wrapping SMALLINT NOT NULL,
    kek INTEGER,
    wrapped @bytes,
    second_wrapped @bytes,
    second_parameters @bytes,
    root_key_id VARCHAR NOT NULL,
    created_at BIGINT NOT NULL,
    destroyed_at BIGINT,
    PRIMARY KEY (principal, purpose, version)
)@clustered;
CREATE TABLE @schema.scopes (
    scope_id @bytes NOT NULL,
    principal @bytes NOT NULL,
    level SMALLINT NOT NULL,
    incarnation INTEGER NOT NULL,
    birth @bytes NOT NULL,
    project @bytes,
    module @bytes,
    hold BIGINT,
    oldest_key INTEGER NOT NULL,
    sealed @bytes NOT NULL,
    created_at BIGINT NOT NULL,
    mac @bytes NOT NULL,
    renewals INTEGER DEFAULT 0 NOT NULL,
    PRIMARY KEY (scope_id)
)@clustered;
CREATE INDEX scopes_module ON @schema.scopes (project, module, level, principal);
CREATE INDEX scopes_principal ON @schema.scopes (principal, project, level);
CREATE TABLE @schema.tombstones (
    directory_id @bytes NOT NULL,
    principal @bytes NOT NULL,
    incarnation INTEGER NOT NULL,
    erased_at BIGINT NOT NULL,
    expires_at BIGINT,
    row_mac @bytes NOT NULL,
    PRIMARY KEY (principal, incarnation)
)@clustered;
CREATE INDEX tombstones_expiry ON @schema.tombstones (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE @schema.key_uses (
    scope_id @bytes NOT NULL,
    key_version INTEGER NOT NULL,
    seals BIGINT NOT NULL,
    PRIMARY KEY (scope_id, key_version),
    FOREIGN KEY (scope_id) REFERENCES @schema.scopes (scope_id) ON DELETE CASCADE
)@clustered;
CREATE TABLE @schema.records (
    scope_id @bytes NOT NULL,
    kind SMALLINT NOT NULL,
    parent @bytes NOT NULL,
    "key" @bytes NOT NULL,
    alias @bytes,
    tag @bytes,
    sealed @bytes NOT NULL,
    size INTEGER NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    expires_at BIGINT,
    expiry_mac @bytes,
    equalities @bytes,
    PRIMARY KEY (scope_id, kind, parent, "key"),
    FOREIGN KEY (scope_id) REFERENCES @schema.scopes (scope_id)
)@clustered;
CREATE UNIQUE INDEX records_alias ON @schema.records (scope_id, kind, parent, alias)
    WHERE alias IS NOT NULL;
CREATE INDEX records_expiry ON @schema.records (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX records_items ON @schema.records
    (scope_id, updated_at, parent, "key", expires_at, size) WHERE kind = 8;
CREATE INDEX records_tag ON @schema.records (scope_id, kind, tag) WHERE tag IS NOT NULL;
CREATE INDEX records_uncounted ON @schema.records (scope_id, kind, expires_at, size)
    WHERE kind > 9 AND kind <> 12;
CREATE TABLE @schema.sessions (
    scope_id @bytes NOT NULL,
    kind SMALLINT NOT NULL,
    digest @bytes NOT NULL,
    row_mac @bytes NOT NULL,
    birth @bytes NOT NULL,
    generation @bytes NOT NULL,
    next_sequence BIGINT NOT NULL,
    count BIGINT NOT NULL,
    size BIGINT NOT NULL,
    members @bytes NOT NULL,
    newest @bytes,
    channels @bytes,
    state SMALLINT NOT NULL,
    is_pinned SMALLINT NOT NULL,
    idle_lifetime BIGINT,
    absolute_lifetime BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    expires_at BIGINT,
    revision BIGINT NOT NULL,
    oldest_key INTEGER NOT NULL,
    sealed @bytes NOT NULL,
    PRIMARY KEY (scope_id, kind, digest),
    FOREIGN KEY (scope_id) REFERENCES @schema.scopes (scope_id)
)@clustered;
CREATE INDEX sessions_expiry ON @schema.sessions (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE @schema.usage (
    scope_id @bytes NOT NULL,
    day INTEGER NOT NULL,
    kind SMALLINT NOT NULL,
    model @bytes NOT NULL,
    count BIGINT NOT NULL,
    size BIGINT NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    sealed @bytes,
    principal @bytes,
    PRIMARY KEY (scope_id, day, kind, model),
    FOREIGN KEY (scope_id) REFERENCES @schema.scopes (scope_id) ON DELETE CASCADE
)@clustered;
CREATE INDEX usage_active ON @schema.usage (day, principal) WHERE principal IS NOT NULL;
"""

STEP = Step.of_both(1, "makes the tables", _SCRIPT)
