-- The trail, version 1. Run as the installer, who owns nothing of it: everything belongs to pgseal_owner.
-- Nobody, the owner included, has the right to UPDATE, DELETE or TRUNCATE the trail. Erasure, a command of the owner's,
-- takes the right to blank content for the length of one transaction (trail/erasure.py).

CREATE SCHEMA audit AUTHORIZATION pgseal_owner;
COMMENT ON SCHEMA audit IS 'pgseal: the trail, where audited facts are born';
SET LOCAL ROLE pgseal_owner;

CREATE TABLE audit.migration (
    version    integer     NOT NULL CONSTRAINT migration_pk PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);

-- CACHE 1: ids of one row rise in the order of its changes, because they are drawn under the row's lock.
CREATE SEQUENCE audit.record_id_seq AS bigint CACHE 1;

-- No CHECK constraints: PostgreSQL prepares them anew for each statement, which would cost more than the
-- insert itself; the functions below are the only writers and check what they write.
CREATE TABLE audit.record (
    id             bigint      NOT NULL,
    recorded_at    timestamptz NOT NULL,
    xid            xid8        NOT NULL,
    pid            integer     NOT NULL,
    source         text        NOT NULL,
    category       text        NOT NULL,
    action         text        NOT NULL,
    outcome        text        NOT NULL,
    relation       text,
    key            jsonb,
    old            jsonb,
    new            jsonb,
    data           jsonb,
    session_role   text        NOT NULL,
    effective_role text,
    authenticated_role text,
    backend_start  timestamptz,
    application    text,
    address        inet,
    claimed        jsonb
) PARTITION BY RANGE (recorded_at);
COMMENT ON TABLE audit.record IS 'append-only: one audited fact a row';
COMMENT ON COLUMN audit.record.old IS 'DELETE: the row; UPDATE: former values of the columns that changed';
COMMENT ON COLUMN audit.record.new IS 'INSERT, UPDATE, SNAPSHOT: the whole row';
COMMENT ON COLUMN audit.record.data IS 'what a record that is no row change says';
COMMENT ON COLUMN audit.record.session_role IS 'session_user';
COMMENT ON COLUMN audit.record.effective_role IS 'role after SET ROLE, when set';
COMMENT ON COLUMN audit.record.authenticated_role IS 'who logged in, also after SET SESSION AUTHORIZATION';
COMMENT ON COLUMN audit.record.backend_start IS 'together with pid names the session; NULL where pgseal_owner lacks pg_read_all_stats';
COMMENT ON COLUMN audit.record.claimed IS 'what the application claims: audit.set_context, PostgREST, Hasura';
CREATE INDEX record_id_ix ON audit.record (id);
REVOKE UPDATE, DELETE, TRUNCATE ON audit.record FROM pgseal_owner;

-- Which tables are captured, and how: the registry that track and untrack keep.
CREATE TABLE audit.tracked (
    relation   text        NOT NULL CONSTRAINT tracked_pk PRIMARY KEY,
    table_oid  oid         NOT NULL CONSTRAINT tracked_table_uq UNIQUE,
    capture    text        NOT NULL CONSTRAINT tracked_capture_uq UNIQUE,
    mode       text        NOT NULL CONSTRAINT tracked_mode_ck CHECK (mode IN ('row', 'statement')),
    layout     text        NOT NULL,
    exclude    text[]      NOT NULL DEFAULT '{}',
    mask       jsonb       NOT NULL DEFAULT '{}',
    truncate   text        NOT NULL DEFAULT 'count' CONSTRAINT tracked_truncate_ck CHECK (truncate IN ('count', 'rows')),
    oversize   text        NOT NULL DEFAULT 'keep' CONSTRAINT tracked_oversize_ck CHECK (oversize IN ('keep', 'digest', 'reject')),
    require_actor   text       NOT NULL DEFAULT 'flag'
        CONSTRAINT tracked_require_actor_ck CHECK (require_actor IN ('flag', 'off', 'reject')),
    exclude_numbers smallint[] NOT NULL DEFAULT '{}',
    mask_numbers    jsonb      NOT NULL DEFAULT '{}',
    row_filter      jsonb,
    tracked_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    baseline   text        NOT NULL CONSTRAINT tracked_baseline_ck CHECK (baseline IN ('pending', 'done', 'none'))
);
COMMENT ON COLUMN audit.tracked.layout IS 'what audit.layout said when the capture function was generated';
COMMENT ON COLUMN audit.tracked.exclude_numbers IS 'the same columns by attnum: a hidden column stays hidden under a new name';
COMMENT ON COLUMN audit.tracked.mask_numbers IS 'mask by attnum';
COMMENT ON COLUMN audit.tracked.row_filter IS 'which rows are captured (where), and what tests it by attnum; NULL: all of them';
COMMENT ON COLUMN audit.tracked.baseline IS 'pending: captured, but the rows that stood before are not recorded yet';

-- The key of hash masks, already XORed into HMAC's two pads; never leaves the source.
CREATE TABLE audit.mask_key (
    only_row  boolean NOT NULL DEFAULT true CONSTRAINT mask_key_pk PRIMARY KEY CONSTRAINT mask_key_one_ck CHECK (only_row),
    inner_pad bytea   NOT NULL,
    outer_pad bytea   NOT NULL
);
INSERT INTO audit.mask_key (inner_pad, outer_pad)
SELECT pg_catalog.string_agg(pg_catalog.decode(pg_catalog.lpad(pg_catalog.to_hex(54 # octet), 2, '0'), 'hex'), ''),
       pg_catalog.string_agg(pg_catalog.decode(pg_catalog.lpad(pg_catalog.to_hex(92 # octet), 2, '0'), 'hex'), '')
FROM (
    -- 32 bytes of the server's strong randomness, padded with zeros to SHA-256's block of 64 (RFC 2104).
    SELECT CASE WHEN i < 32 THEN pg_catalog.get_byte(k.secret, i) ELSE 0 END AS octet
    FROM (SELECT pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.string_agg(
              pg_catalog.gen_random_uuid()::text, ''), 'UTF8')) AS secret
          FROM pg_catalog.generate_series(1, 4)) AS k,
         pg_catalog.generate_series(0, 63) AS i
    ORDER BY i
) AS octets;

-- Partitions -------------------------------------------------------------------------------------------

-- One partition a quarter, two years ahead. Made standalone and then attached, which does not block writers
-- as CREATE ... PARTITION OF would; no default partition, which would forbid DETACH CONCURRENTLY.
CREATE FUNCTION audit.ensure_partitions(ahead interval DEFAULT '2 years') RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, MDY'
AS $pgseal$
DECLARE
    made       integer := 0;
    quarter    timestamptz := date_trunc('quarter', now());
    lower_end  text;
    name       text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('pgseal audit.ensure_partitions', 0));
    WHILE quarter <= now() + ahead LOOP
        name := 'record_' || to_char(quarter, 'YYYY"q"Q');
        IF to_regclass(format('audit.%I', name)) IS NULL THEN
            -- The first partition reaches back to the beginning of time.
            lower_end := CASE
                WHEN EXISTS (SELECT FROM pg_inherits WHERE inhparent = 'audit.record'::regclass) THEN quote_literal(quarter)
                ELSE 'MINVALUE'
            END;
            EXECUTE format('CREATE TABLE audit.%I (LIKE audit.record INCLUDING COMMENTS)', name);
            EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON audit.%I FROM pgseal_owner', name);
            EXECUTE format('CREATE INDEX ON audit.%I (id)', name);
            EXECUTE format('ALTER TABLE audit.record ATTACH PARTITION audit.%I FOR VALUES FROM (%s) TO (%L)',
                           name, lower_end, quarter + interval '3 months');
            made := made + 1;
        END IF;
        quarter := quarter + interval '3 months';
    END LOOP;
    RETURN made;
END
$pgseal$;
SELECT audit.ensure_partitions();

-- Who is acting -----------------------------------------------------------------------------------------

-- What marks a context as set in this very transaction; a value left behind by a session-level SET or by the
-- pool's previous client carries another mark.
CREATE FUNCTION audit.transaction_mark() RETURNS text
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT pg_catalog.concat(EXTRACT(EPOCH FROM pg_catalog.now()), '/', pg_catalog.pg_backend_pid(), ' ');
END;

CREATE FUNCTION audit.set_context(context jsonb) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $pgseal$
BEGIN
    IF context IS NULL OR jsonb_typeof(context) <> 'object' THEN
        RAISE EXCEPTION 'pgseal: context must be a JSON object, got %', coalesce(jsonb_typeof(context), 'NULL')
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = $hint$SELECT audit.set_context('{"actor": "alice"}')$hint$;
    END IF;
    IF octet_length(context::text) > 16384 THEN
        RAISE EXCEPTION 'pgseal: context is % bytes, at most 16384 are kept', octet_length(context::text)
            USING ERRCODE = 'program_limit_exceeded',
                  HINT = 'Put identifiers into the context, not documents.';
    END IF;
    PERFORM set_config('pgseal.context', audit.transaction_mark() || context::text, true);
END
$pgseal$;
COMMENT ON FUNCTION audit.set_context(jsonb) IS 'says who is acting, until the end of this transaction';

-- What gateways say without being asked: PostgREST and Supabase (request.jwt.claims, formerly request.jwt.claim.*),
-- Hasura (hasura.user). They set it for the transaction; that nobody else did cannot be told, so it is a claim.
CREATE FUNCTION audit.claimed_by_gateway() RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $pgseal$
DECLARE
    jwt    text := current_setting('request.jwt.claims', true);
    sub    text := current_setting('request.jwt.claim.sub', true);
    hasura text := current_setting('hasura.user', true);
    said   jsonb;
BEGIN
    IF jwt <> '' THEN
        said := jwt::jsonb;
        RETURN jsonb_build_object('actor', left(said ->> 'sub', 1024), 'role', left(said ->> 'role', 1024), 'via', 'request.jwt.claims');
    ELSIF sub <> '' THEN
        RETURN jsonb_build_object('actor', left(sub, 1024), 'role', left(current_setting('request.jwt.claim.role', true), 1024),
                                  'via', 'request.jwt.claim.sub');
    ELSIF hasura <> '' THEN
        said := hasura::jsonb;
        RETURN jsonb_build_object('actor', left(said ->> 'x-hasura-user-id', 1024), 'role', left(said ->> 'x-hasura-role', 1024),
                                  'via', 'hasura.user');
    END IF;
    RETURN NULL;
EXCEPTION WHEN data_exception OR statement_too_complex THEN
    RETURN '{"via": "unreadable"}';  -- not our JSON, and no reason to fail somebody's write
END
$pgseal$;

-- What is claimed in this transaction; NULL if nothing is. A context left behind by another transaction is none.
CREATE FUNCTION audit.claimed() RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $pgseal$
DECLARE
    context text := current_setting('pgseal.context', true);
    mark    text := audit.transaction_mark();
    gateway jsonb := jsonb_strip_nulls(audit.claimed_by_gateway());
    said    jsonb;
BEGIN
    -- Written past set_context it could be longer, and anything.
    IF starts_with(context, mark) AND octet_length(context) <= 16384 + octet_length(mark) THEN
        said := substr(context, length(mark) + 1)::jsonb;
        IF jsonb_typeof(said) = 'object' THEN
            RETURN coalesce(gateway, '{}') || said;
        END IF;
    END IF;
    RETURN gateway;
EXCEPTION WHEN data_exception OR statement_too_complex THEN
    RETURN gateway;
END
$pgseal$;

-- The actor that a claim names, as text or as an object with an id; NULL if it names none.
CREATE FUNCTION audit.claimed_actor(claim jsonb) RETURNS text
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT NULLIF(CASE pg_catalog.jsonb_typeof(claim OPERATOR(pg_catalog.->) 'actor')
        WHEN 'object' THEN claim OPERATOR(pg_catalog.#>>) '{actor,id}'
        ELSE claim OPERATOR(pg_catalog.->>) 'actor' END, '');
END;

-- Two facts about this session. IMMUTABLE is meant as "for the life of a plan": plans belong to one session, and within
-- it these facts do not change. So they are read once, and nothing that a session can set gets in their way.
CREATE FUNCTION audit.authenticated_role() RETURNS text
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $pgseal$
BEGIN
    RETURN (SELECT r.rolname FROM pg_stat_get_activity(pg_backend_pid()) AS a JOIN pg_roles AS r ON r.oid = a.usesysid);
END
$pgseal$;

CREATE FUNCTION audit.backend_start() RETURNS timestamptz
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $pgseal$
BEGIN
    RETURN (SELECT a.backend_start FROM pg_stat_get_activity(pg_backend_pid()) AS a);
END
$pgseal$;

-- Keyed hash of a masked value: HMAC-SHA-256 (RFC 2104) in lower-case hex, without pgcrypto.
CREATE FUNCTION audit.mask_hash(value text) RETURNS text
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT pg_catalog.encode(pg_catalog.sha256(k.outer_pad OPERATOR(pg_catalog.||) pg_catalog.sha256(
        k.inner_pad OPERATOR(pg_catalog.||) pg_catalog.convert_to(value, 'UTF8'))), 'hex')
    FROM audit.mask_key AS k;
END;

-- Writes one record that is no row change, in the name of whoever is acting; not for callers from outside. Who gives an
-- id has drawn it, and an xid before it.
CREATE FUNCTION audit.append(source text, category text, action text, outcome text, relation text, data jsonb, claimed jsonb,
                             record_id bigint DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $pgseal$
DECLARE
    -- In this order: the feed relies on ids of a transaction being younger than its xid, and a HEARTBEAT on times being
    -- older than the ids.
    own_xid   xid8 := pg_current_xact_id();
    moment    timestamptz := clock_timestamp();
BEGIN
    record_id := coalesce(record_id, nextval('audit.record_id_seq'));
    INSERT INTO audit.record (id, recorded_at, xid, pid, source, category, action, outcome, relation, data, session_role,
                              effective_role, authenticated_role, backend_start, application, address, claimed)
    VALUES (record_id, moment, own_xid, pg_backend_pid(), source, category, action, outcome, relation, data,
            session_user, nullif(current_setting('role'), 'none'), audit.authenticated_role(), audit.backend_start(),
            nullif(current_setting('application_name'), ''), inet_client_addr(), claimed);
    RETURN record_id;
END
$pgseal$;

-- Application events ------------------------------------------------------------------------------------

CREATE FUNCTION audit.record_event(
    action   text,
    data     jsonb DEFAULT '{}',
    category text  DEFAULT 'administration',
    outcome  text  DEFAULT 'success'
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $pgseal$
BEGIN
    IF action IS NULL OR action !~ '^[A-Z][A-Z0-9_]{0,62}$' THEN
        RAISE EXCEPTION 'pgseal: action must match [A-Z][A-Z0-9_]{0,62}, got %', quote_nullable(action)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF action IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRUNCATE_PARTITION', 'ATTACH', 'DETACH', 'SNAPSHOT', 'TRACK',
                  'TRACK_PARTITIONS', 'UNTRACK', 'HEARTBEAT', 'ERASE', 'HOLD', 'RELEASE',
                  'RETENTION', 'RECOVER', 'MALFORMED', 'CLOCK', 'KEY_ROTATE', 'REPAIR') THEN
        RAISE EXCEPTION 'pgseal: % is an action of pgseal''s own', quote_literal(action)
            USING ERRCODE = 'reserved_name',
                  HINT = 'It names changes of rows and what pgseal does itself: choose another name for the event.';
    END IF;
    IF category IS NULL OR category NOT IN
        ('authentication', 'authorization', 'data_access', 'data_modification', 'configuration', 'administration') THEN
        RAISE EXCEPTION 'pgseal: unknown category %', quote_nullable(category)
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'authentication, authorization, data_access, data_modification, configuration or administration';
    END IF;
    IF outcome IS NULL OR outcome NOT IN ('success', 'failure', 'denied', 'unknown') THEN
        RAISE EXCEPTION 'pgseal: unknown outcome %', quote_nullable(outcome)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'success, failure, denied or unknown';
    END IF;
    IF data IS NULL OR jsonb_typeof(data) <> 'object' THEN
        RAISE EXCEPTION 'pgseal: data must be a JSON object, got %', coalesce(jsonb_typeof(data), 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF octet_length(data::text) > 65536 THEN
        RAISE EXCEPTION 'pgseal: data is % bytes, at most 65536 are kept', octet_length(data::text)
            USING ERRCODE = 'program_limit_exceeded';
    END IF;
    RETURN audit.append('app', category, action, outcome, NULL, data, audit.claimed());
END
$pgseal$;
COMMENT ON FUNCTION audit.record_event(text, jsonb, text, text) IS 'records an application event in this transaction';

-- pgseal's own acts, for pgseal's own roles only.
CREATE FUNCTION audit.record_act(action text, data jsonb, category text DEFAULT 'configuration', relation text DEFAULT NULL,
                                 claimed jsonb DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $pgseal$
BEGIN
    RETURN audit.append('system', category, action, 'success', relation, data, claimed);
END
$pgseal$;

-- A HEARTBEAT (FORMATS.md section 4): the bounds that the sealer knows, and the upper one of this trail itself, which
-- only we can: whoever has a lower id read the clock before us.
CREATE FUNCTION audit.record_heartbeat(trails jsonb, own_trail text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $pgseal$
DECLARE
    own_xid   xid8 := pg_current_xact_id();
    record_id bigint := nextval('audit.record_id_seq');
    high      text := to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');
BEGIN
    high := greatest(high COLLATE "C", trails #>> ARRAY[own_trail, 'high']);
    RETURN audit.append('system', 'administration', 'HEARTBEAT', 'success', NULL,
                        jsonb_build_object('trails', jsonb_set(trails, ARRAY[own_trail, 'high'], to_jsonb(high))), NULL, record_id);
END
$pgseal$;

-- Rights: the last word, so that nothing above keeps PostgreSQL's default EXECUTE for everyone. ------------

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA audit FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE USAGE ON TYPES FROM PUBLIC;
GRANT USAGE ON SCHEMA audit TO PUBLIC;
GRANT EXECUTE ON FUNCTION audit.set_context(jsonb), audit.record_event(text, jsonb, text, text) TO PUBLIC;

GRANT SELECT ON audit.record, audit.record_id_seq, audit.tracked, audit.migration TO pgseal_sealer;
GRANT EXECUTE ON FUNCTION audit.ensure_partitions(interval), audit.record_act(text, jsonb, text, text, jsonb), audit.record_heartbeat(jsonb, text)
    TO pgseal_sealer;
GRANT SELECT ON audit.record, audit.tracked TO pgseal_reader;

RESET ROLE;
