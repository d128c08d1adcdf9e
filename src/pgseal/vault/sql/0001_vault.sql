-- The vault, version 1: sealed records, and how far each trail has been sealed.

CREATE SCHEMA vault AUTHORIZATION pgseal_owner;
COMMENT ON SCHEMA vault IS 'pgseal: sealed records, for search, history and evidence';
SET LOCAL ROLE pgseal_owner;

CREATE TABLE vault.migration (
    version    integer     NOT NULL CONSTRAINT migration_pk PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);

-- The envelope is not stored: it is rebuilt from the columns and must equal the ledger's entry byte for byte, so no
-- column can be changed unnoticed. Every row is written once; erasure (which blanks parts and salts) is the exception.
CREATE TABLE vault.record (
    leaf_index  bigint      NOT NULL CONSTRAINT record_pk PRIMARY KEY,
    trail       text        NOT NULL,
    incarnation integer     NOT NULL,
    id          bigint      NOT NULL,
    time        timestamptz NOT NULL,
    xid         xid8        NOT NULL,
    source      text        NOT NULL,
    category    text        NOT NULL,
    action      text        NOT NULL,
    outcome     text        NOT NULL,
    relation    text,
    actor       text,
    actor_salt  bytea,
    data        text,
    data_salt   bytea,
    CONSTRAINT record_identity_uq UNIQUE (trail, incarnation, id),
    CONSTRAINT record_leaf_index_ck CHECK (leaf_index >= 0),
    CONSTRAINT record_incarnation_ck CHECK (incarnation >= 1),
    CONSTRAINT record_id_ck CHECK (id >= 1)
);
COMMENT ON COLUMN vault.record.leaf_index IS 'position in the ledger, from 0, without gaps';
COMMENT ON COLUMN vault.record.actor IS 'who: the exact text committed to; NULL once erased';
COMMENT ON COLUMN vault.record.data IS 'what: the exact text committed to; NULL once erased';

-- The history of one row: its relation and the leading {"key": ...} of its data, hashed so that any key fits an index.
CREATE FUNCTION vault.row_hash(relation text, data text) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.hashtextextended(
    -- || and not concat(), which is not immutable and would keep the planner from inlining this.
    relation OPERATOR(pg_catalog.||) ' ' OPERATOR(pg_catalog.||) pg_catalog.split_part(data, ', "new": ', 1), 0);
CREATE INDEX record_row_ix ON vault.record (vault.row_hash(relation, data)) WHERE source = 'row';
CREATE INDEX record_time_ix ON vault.record USING brin (time);

-- One row a trail, changed in the transaction that keeps the records (trail/feed.py explains the columns).
CREATE TABLE vault.feed (
    trail             text        NOT NULL CONSTRAINT feed_pk PRIMARY KEY,
    incarnation       integer     NOT NULL,
    snapshot          pg_snapshot NOT NULL,
    pending           pg_snapshot,
    "position"        bigint      NOT NULL,
    floors            bigint[]    NOT NULL, -- threes, flattened
    pending_last_id   bigint      NOT NULL,
    pending_time      bigint      NOT NULL,
    system_identifier bigint,
    timeline          bigint,
    flush_lsn         pg_lsn      NOT NULL,
    base_id           bigint      NOT NULL
);

REVOKE UPDATE, DELETE, TRUNCATE ON vault.record FROM pgseal_owner;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA vault FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
GRANT USAGE ON SCHEMA vault TO pgseal_sealer, pgseal_reader;
GRANT SELECT, INSERT ON vault.record TO pgseal_sealer;
GRANT SELECT, INSERT, UPDATE ON vault.feed TO pgseal_sealer;
GRANT SELECT ON vault.migration TO pgseal_sealer;
GRANT SELECT ON vault.record, vault.feed TO pgseal_reader;
GRANT EXECUTE ON FUNCTION vault.row_hash(text, text) TO pgseal_sealer, pgseal_reader;

RESET ROLE;
