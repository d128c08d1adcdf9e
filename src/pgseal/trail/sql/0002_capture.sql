-- What capture needs in the database besides the functions that are generated for each table (capture.py).

SET LOCAL ROLE pgseal_owner;

-- The table's live columns in order: number and name. Asked of the system caches and not of pg_attribute: a
-- transaction whose snapshot is older than an ALTER TABLE sees the former columns there, while its rows have the new.
-- Without virtual generated columns, which no row has a value of.
CREATE FUNCTION audit.live_columns(relation regclass) RETURNS TABLE (number smallint, name text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
AS $pgseal$
DECLARE
    prefix   text := (pg_identify_object('pg_class'::regclass, relation, 0)).identity || '.';
    identity text;
BEGIN
    number := 0;
    LOOP
        number := number + 1;
        identity := (pg_identify_object('pg_class'::regclass, relation, number)).identity;
        EXIT WHEN identity IS NULL;
        CONTINUE WHEN has_column_privilege(relation, number, 'SELECT') IS NULL;  -- dropped
        CONTINUE WHEN EXISTS (SELECT FROM pg_attribute AS a
                              WHERE a.attrelid = relation AND a.attnum = number AND a.attgenerated = 'v');
        name := (parse_ident(substr(identity, length(prefix) + 1)))[1];
        RETURN NEXT;
    END LOOP;
END
$pgseal$;

-- The table's name as it stands in records (FORMATS.md, section 1), live as well; NULL if there is no such table.
CREATE FUNCTION audit.format_relation(relation regclass) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
AS $pgseal$
    SELECT string_agg(
        CASE WHEN p.part COLLATE "C" ~ '^[a-z_][a-z0-9_]*$' THEN p.part ELSE concat('"', replace(p.part, '"', '""'), '"') END,
        '.' ORDER BY p.position)
    FROM unnest(parse_ident((pg_identify_object('pg_class'::regclass, relation, 0)).identity))
        WITH ORDINALITY AS p(part, position)
$pgseal$;

-- A digest of all that the generated code depends on: name, columns with their types, primary key.
CREATE FUNCTION audit.layout(relation regclass) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $pgseal$
    SELECT encode(sha256(convert_to(jsonb_build_array(
        audit.format_relation(relation),
        (SELECT jsonb_agg(jsonb_build_array(c.number, c.name, a.atttypid::bigint) ORDER BY c.number)
         FROM audit.live_columns(relation) AS c
         LEFT JOIN pg_attribute AS a ON a.attrelid = relation AND a.attnum = c.number),
        (SELECT jsonb_agg(k.number ORDER BY k.position)
         FROM pg_index AS i CROSS JOIN unnest(i.indkey) WITH ORDINALITY AS k(number, position)
         WHERE i.indrelid = relation AND i.indisprimary)
    )::text, 'UTF8')), 'hex')
$pgseal$;

-- Whether the table still is what its capture function was generated for.
--
-- IMMUTABLE is meant as "for the life of a plan". Called with a constant regclass, it is evaluated when the expression
-- is planned and costs a row nothing; PostgreSQL makes a plan with such a constant depend on the table, and plans anew
-- in every session as soon as the table is altered, also within the altering transaction and when it rolls back.
--
-- Types come from the catalog as the transaction's snapshot shows it. Where it shows a row that has been replaced, the
-- snapshot is older than an ALTER TABLE, and nothing is known.
CREATE FUNCTION audit.has_layout(relation regclass, layout text) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $pgseal$
BEGIN
    RETURN audit.layout(relation) = layout AND NOT EXISTS (
        SELECT FROM pg_attribute AS a
        WHERE a.attrelid = relation AND a.attnum > 0 AND a.xmax <> 0
            AND pg_xact_status(audit.widen(a.xmax)) IS DISTINCT FROM 'aborted'
    );
END
$pgseal$;

-- Whether this is a worker of logical replication. IMMUTABLE is meant as "for the life of a plan", which belongs to one
-- session.
CREATE FUNCTION audit.is_worker() RETURNS boolean
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $pgseal$
BEGIN
    RETURN EXISTS (SELECT FROM pg_stat_get_subscription(NULL) AS s WHERE s.pid = pg_backend_pid());
END
$pgseal$;

-- The 64-bit transaction id that a 32-bit one stands for: the nearest to our own.
CREATE FUNCTION audit.widen(narrow xid) RETURNS xid8
LANGUAGE sql STABLE
AS $pgseal$
    SELECT (own.id + ((narrow::text::bigint - own.id % 4294967296 + 6442450944) % 4294967296) - 2147483648)::text::xid8
    FROM (SELECT pg_current_xact_id()::text::bigint AS id) AS own
$pgseal$;

-- Gives back its first argument, and does not accept one of another type than the second: not even one that could be
-- cast to it. Inlined, so that it costs nothing; what counts is that an expression of another type is not prepared.
CREATE FUNCTION audit.exactly(value anyelement, type anyelement) RETURNS anyelement
LANGUAGE sql IMMUTABLE
AS 'SELECT $1';

-- A jsonb value as it stands in an image, where null is SQL's: JSON null and what looks like its mark are marked.
CREATE FUNCTION audit.mark_json(value jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT CASE pg_catalog.jsonb_typeof(value)
        WHEN 'null' THEN '{"pgseal": "null"}'
        WHEN 'object' THEN CASE WHEN pg_catalog.jsonb_exists(value, 'pgseal')
            THEN pg_catalog.jsonb_build_object('pgseal', 'value', 'value', value) ELSE value END
        ELSE value END;
END;

-- Pin what changes output text, for a table about whose types nothing is known; returns what was set before.
CREATE FUNCTION audit.swap_settings(wanted jsonb) RETURNS jsonb
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $pgseal$
    SELECT jsonb_object_agg(before.name, before.value) FROM (
        SELECT w.name, current_setting(w.name) AS value, w.value AS new FROM jsonb_each_text(wanted) AS w(name, value)
        OFFSET 0
    ) AS before WHERE set_config(before.name, before.new, true) IS NOT NULL
$pgseal$;

-- The INSERT that records changes of a table whose layout is not the one its capture function was generated for: for
-- any columns of any types, and therefore slower. Evaluated at planning, like has_layout.
--
-- $1 is the claimed context; of a row trigger $2 and $3 are OLD and NEW, a statement trigger has old_rows and new_rows.
-- Other rows than these, deleted ones or those of a SNAPSHOT, are read from ``place``, which is trusted SQL; the ids of a
-- SNAPSHOT begin with $2. ``row_filter`` is what the registry has of the table's filter. Of a partitioned table, the next
-- parameter after these is the record's data, to which it belongs which partition the row is in.
-- Values of the types that FORMATS.md, section 1 gives to to_jsonb are recognised when they are met. All others are printed by
-- their output function, so that nobody's cast runs.
CREATE FUNCTION audit.format_insert(
    relation regclass, action text, is_row boolean, exclude smallint[], masks jsonb, oversize text, place text DEFAULT NULL,
    row_filter jsonb DEFAULT NULL
) RETURNS text
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
AS $pgseal$
DECLARE
    old_rows  text := CASE WHEN is_row THEN '(SELECT ($2).*)' ELSE coalesce(place, 'old_rows') END;
    new_rows  text := CASE WHEN is_row THEN '(SELECT ($3).*)' ELSE coalesce(place, 'new_rows') END;
    counter   text := 'n';
    old_pairs text;
    new_pairs text;
    changed   text;
    old_key   text;
    new_key   text;
    source    text;
    large     text;
    -- Which row there is, or that there are both.
    rows      text[] := CASE action WHEN 'DELETE' THEN ARRAY['old'] WHEN 'UPDATE' THEN ARRAY['old', 'new'] ELSE ARRAY['new'] END;
    covered   text := '';
    data      text := CASE WHEN (SELECT c.relkind FROM pg_class AS c WHERE c.oid = relation) <> 'p' THEN 'NULL'
                           WHEN is_row THEN '$4' WHEN action = 'SNAPSHOT' THEN '$3' ELSE '$2' END;
BEGIN
    WITH live AS (
        SELECT c.number, c.name, masks ->> c.number::text AS mask,
               format('old.%I', c.name) AS old, format('new.%I', c.name) AS new,
               to_json(c.name)::text || ': ' AS label
        FROM audit.live_columns(relation) AS c
        WHERE c.number <> ALL (exclude)
    ), written AS (
        SELECT l.number, l.label,
               -- What is there already must not keep anybody from removing it: only new values are rejected.
               audit.format_value(l.old, l.mask, f.fit_old) AS old, audit.format_value(l.new, l.mask, f.fit_new) AS new,
               audit.format_value(l.old, NULL, f.fit_old) AS old_raw,
               audit.format_value(l.new, NULL, f.fit_new) AS new_raw,
               format('CASE WHEN num_nulls(%1$s) = 0 THEN format(''%%s'', %1$s) COLLATE "C" END '
                      'IS DISTINCT FROM CASE WHEN num_nulls(%2$s) = 0 THEN format(''%%s'', %2$s) COLLATE "C" END',
                      l.old, l.new) AS differs
        FROM live AS l CROSS JOIN LATERAL (
            SELECT format('audit.fit(%s, %L, %L, large.old)', l.old,
                          CASE oversize WHEN 'reject' THEN 'digest' ELSE oversize END, l.name) AS fit_old,
                   format('audit.fit(%s, %L, %L, large.new)', l.new, oversize, l.name) AS fit_new
        ) AS f
    )
    SELECT string_agg(format('%L || %s', w.label, w.old), ', ' ORDER BY w.number),
           string_agg(format('%L || %s', w.label, w.new), ', ' ORDER BY w.number),
           string_agg(format('CASE WHEN %s THEN %L || %s END', w.differs, w.label, w.old), ', ' ORDER BY w.number),
           string_agg(format('%L || %s', w.label, w.old_raw), ', ' ORDER BY k.position) FILTER (WHERE k.number IS NOT NULL),
           string_agg(format('%L || %s', w.label, w.new_raw), ', ' ORDER BY k.position) FILTER (WHERE k.number IS NOT NULL)
    INTO old_pairs, new_pairs, changed, old_key, new_key
    FROM written AS w LEFT JOIN (
        SELECT u.number, u.position FROM pg_index AS i CROSS JOIN unnest(i.indkey) WITH ORDINALITY AS u(number, position)
        WHERE i.indrelid = relation AND i.indisprimary
    ) AS k ON k.number = w.number;
    -- Old and new rows of a statement belong together by their order; the name of the counter must not be a column's.
    WHILE EXISTS (SELECT FROM audit.live_columns(relation) AS c WHERE c.name = counter) LOOP
        counter := counter || '_';
    END LOOP;
    -- How many of a row's values are not small, once for the row: OFFSET keeps it from being written out for each value.
    SELECT format('CROSS JOIN LATERAL (SELECT %s OFFSET 0) AS large', string_agg(format(
        '(SELECT count(*) FROM unnest(ARRAY[%s]::integer[]) AS s(size) WHERE s.size > 4000) AS %s', v.sizes, v.row), ', '))
    INTO large FROM (
        SELECT r.row, string_agg(format('pg_column_size(%s.%I)', r.row, c.name), ', ') AS sizes
        FROM unnest(rows) AS r(row)
        LEFT JOIN audit.live_columns(relation) AS c ON c.number <> ALL (exclude)
        GROUP BY r.row
    ) AS v;
    IF row_filter IS NOT NULL THEN
        SELECT 'WHERE ' || string_agg(audit.format_filter(relation, row_filter, r.row), ' OR ') INTO covered
        FROM unnest(rows) AS r(row);
    END IF;
    source := CASE
        WHEN action = 'DELETE' THEN format('%s AS old %s %s', old_rows, large, covered)
        WHEN action <> 'UPDATE' THEN format('%s AS new %s %s', new_rows, large, covered)
        WHEN is_row THEN format('%s AS old CROSS JOIN %s AS new %s %s', old_rows, new_rows, large, covered)
        ELSE format('(SELECT r.*, row_number() OVER () AS %1$I FROM old_rows AS r) AS old '
                    'JOIN (SELECT r.*, row_number() OVER () AS %1$I FROM new_rows AS r) AS new '
                    'ON old.%1$I = new.%1$I %2$s %3$s ORDER BY old.%1$I', counter, large, covered)
    END;
    RETURN format(
        'INSERT INTO audit.record (id, recorded_at, xid, pid, source, category, action, outcome, relation, key, old, new, data, '
        'session_role, effective_role, authenticated_role, backend_start, application, address, claimed) SELECT '
        '%s, clock_timestamp(), '
        'pg_current_xact_id(), pg_backend_pid(), ''row'', ''data_modification'', %L, ''success'', %L, %s, %s, %s, %s, '
        'session_user, nullif(current_setting(''role''), ''none''), audit.authenticated_role(), audit.backend_start(), '
        'nullif(current_setting(''application_name''), ''''), '
        'inet_client_addr(), $1 FROM %s',
        CASE WHEN action = 'SNAPSHOT' THEN '$2 + row_number() OVER () - 1'
             WHEN is_row AND data <> 'NULL' THEN 'audit.draw_id($4)'
             ELSE 'CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval(''audit.record_id_seq'') END' END,
        action,
        audit.format_relation(relation),
        audit.format_object(CASE WHEN action IN ('INSERT', 'SNAPSHOT') THEN new_key ELSE old_key END, 'NULL'),
        CASE action WHEN 'UPDATE' THEN audit.format_object(changed, '''{}''')
                    WHEN 'DELETE' THEN audit.format_object(old_pairs, '''{}''') ELSE 'NULL' END,
        CASE WHEN action = 'DELETE' THEN 'NULL' ELSE audit.format_object(new_pairs, '''{}''') END,
        data,
        source);
END
$pgseal$;

-- Whether a table's filter covers ``place``, which names a row of it in trusted SQL, whatever its columns are now: it covers
-- every row where a column that it tests is gone or has another type. ``test`` is what conditions.format_stored made; it
-- reads printed values, so that no cast is looked for in a type that it was not made for.
CREATE FUNCTION audit.format_filter(relation regclass, row_filter jsonb, place text) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
AS $pgseal$
    SELECT CASE WHEN count(c.number) < count(*) THEN 'true' ELSE format(
        '(SELECT CASE WHEN %s THEN %s ELSE true END FROM (SELECT %s) AS tested)',
        string_agg(format('pg_typeof(tested.%I) = %L::regtype', f.number::text, f.type), ' AND '),
        $2 ->> 'test',
        string_agg(format('%s.%I AS %I', $3, c.name, f.number::text), ', ')
            FILTER (WHERE c.number IS NOT NULL)) END
    FROM jsonb_to_recordset($2 -> 'columns') AS f(number smallint, type oid)
    LEFT JOIN audit.live_columns($1) AS c ON c.number = f.number
$pgseal$;

-- Whether an enum has not all of these labels any more, under the oids that they had. Called for rows that a filter does not
-- cover. What a snapshot shows of a label that was renamed since is not what values are printed as.
CREATE FUNCTION audit.lost_labels(numbers oid[], labels text[]) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $pgseal$
BEGIN
    RETURN cardinality(numbers) > (
        SELECT count(*) FROM pg_enum AS e
        WHERE e.oid = ANY (numbers) AND e.enumlabel = labels[array_position(numbers, e.oid)]
            AND CASE WHEN e.xmax <> 0 THEN pg_xact_status(audit.widen(e.xmax)) = 'aborted' ELSE true END
    );
END
$pgseal$;

-- Rows that move between partitions (docs/adr/0015) ----------------------------------------------------------

-- PostgreSQL moves a row by deleting it in one partition and inserting it into another; row triggers see only that. What
-- an UPDATE does is seen before: a trigger for each row that changes what the table is partitioned by notes the row's
-- place here, the DELETE of just this row version finds it, and the INSERT that comes next finds the DELETE.
--
-- Nothing in here is of use to another transaction. Unlogged, so that no publication of all tables refuses our DELETEs.
CREATE UNLOGGED TABLE audit.moving (
    xid   xid8 NOT NULL,
    place oid  NOT NULL,
    spot  tid  NOT NULL
);
COMMENT ON TABLE audit.moving IS 'rows that an UPDATE may be about to move to another partition, of transactions that run now';
CREATE INDEX moving_spot_ix ON audit.moving (xid, place, spot);

CREATE UNLOGGED TABLE audit.moved (
    record_id bigint  NOT NULL,
    xid       xid8    NOT NULL,
    depth     integer NOT NULL,
    begun     bigint  NOT NULL
);
COMMENT ON TABLE audit.moved IS 'their DELETE records, until the INSERT follows';
COMMENT ON COLUMN audit.moved.depth IS 'pg_trigger_depth() of the DELETE';
COMMENT ON COLUMN audit.moved.begun IS 'a command id, younger than the UPDATE''s and older than that of any later command';
CREATE INDEX moved_record_ix ON audit.moved (xid, record_id);

-- A relation's name as format_relation writes it.
CREATE FUNCTION audit.format_name(schema text, name text) RETURNS text
LANGUAGE sql IMMUTABLE
BEGIN ATOMIC
    SELECT pg_catalog.concat_ws('.',
        CASE WHEN schema COLLATE pg_catalog."C" OPERATOR(pg_catalog.~) '^[a-z_][a-z0-9_]*$' THEN schema
             ELSE pg_catalog.concat('"', pg_catalog.replace(schema, '"', '""'), '"') END,
        CASE WHEN name COLLATE pg_catalog."C" OPERATOR(pg_catalog.~) '^[a-z_][a-z0-9_]*$' THEN name
             ELSE pg_catalog.concat('"', pg_catalog.replace(name, '"', '""'), '"') END);
END;

-- What an UPDATE noted about row version ``spot`` of ``place`` is done with.
--
-- These functions are planned while the tables are empty, and then run with whatever an UPDATE of many rows has left
-- there: only their indexes will do.
CREATE FUNCTION audit.forget_move(place oid, spot tid) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off
AS $pgseal$
BEGIN
    DELETE FROM audit.moving AS m WHERE m.xid = pg_current_xact_id() AND m.place = $1 AND m.spot = $2;
END
$pgseal$;

-- Row version ``spot`` of ``place`` was deleted: what its record says of a move, if it is one. Then the record's id is
-- drawn here.
CREATE FUNCTION audit.leave_partition(place oid, place_name text, spot tid) RETURNS jsonb
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off
AS $pgseal$
DECLARE
    command_id bigint;
BEGIN
    -- More than one, if triggers kept an UPDATE from being made. Before it is deleted: then cmin is another number.
    SELECT max(m.cmin::text::bigint) INTO command_id FROM audit.moving AS m
    WHERE m.xid = pg_current_xact_id() AND m.place = $1 AND m.spot = $3;
    IF command_id IS NULL THEN
        RETURN NULL;
    END IF;
    DELETE FROM audit.moving AS m WHERE m.xid = pg_current_xact_id() AND m.place = $1 AND m.spot = $3;
    INSERT INTO audit.moved (record_id, xid, depth, begun)
    VALUES (nextval('audit.record_id_seq'), pg_current_xact_id(), pg_trigger_depth(), command_id);
    RETURN jsonb_build_object('moved', jsonb_build_object('from', place_name));
END
$pgseal$;

-- A row was inserted into ``place``: what its record says of a move, if it is one.
--
-- It is if the last DELETE of a moving row that no INSERT has followed was recorded at the same depth of triggers, and the
-- command that wrote this row began before that row was noted (``command_id``, from the row's header, which says so as
-- long as it ``is_fresh``): then one command did it all. Who is met on the way and is too late for that has lost his
-- INSERT to a trigger.
CREATE FUNCTION audit.enter_partition(place oid, place_name text, command_id bigint, is_fresh boolean) RETURNS jsonb
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_bitmapscan = off
AS $pgseal$
DECLARE
    newest bigint := currval('audit.record_id_seq');
    left_before record;
BEGIN
    LOOP
        -- Far enough back for what other triggers record in between, near enough not to wade through what is done.
        SELECT m.ctid, m.record_id, m.depth, m.begun INTO left_before FROM audit.moved AS m
        WHERE m.xid = pg_current_xact_id() AND m.record_id BETWEEN newest - 10000 AND newest
        ORDER BY m.record_id DESC LIMIT 1;
        IF NOT FOUND OR left_before.depth < pg_trigger_depth() THEN
            RETURN NULL;
        END IF;
        DELETE FROM audit.moved AS m WHERE m.ctid = left_before.ctid;
        IF left_before.depth = pg_trigger_depth() AND command_id < left_before.begun AND is_fresh
            AND EXISTS (SELECT FROM pg_class AS c WHERE c.oid = place AND c.relkind = 'r')
        THEN
            RETURN jsonb_build_object('moved', jsonb_build_object(
                'to', place_name, 'record', left_before.record_id::text));
        END IF;
    END LOOP;
END
$pgseal$;

-- The id of a record with this ``data``; drawn after the transaction has its xid, which the feed relies on.
CREATE FUNCTION audit.draw_id(data jsonb) RETURNS bigint
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT CASE WHEN pg_catalog.pg_current_xact_id() IS NULL THEN NULL
        WHEN data OPERATOR(pg_catalog.#>) '{moved,from}' IS NULL THEN pg_catalog.nextval('audit.record_id_seq')
        ELSE pg_catalog.currval('audit.record_id_seq') END;
END;

-- That a trigger is where it was made for: a restored database has other oids.
CREATE FUNCTION audit.check_place(place oid, expected regclass) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $pgseal$
BEGIN
    IF place <> expected AND NOT EXISTS (SELECT FROM pg_partition_ancestors(place) AS p WHERE p.relid = expected) THEN
        RAISE EXCEPTION 'pgseal: capture of % was made for a table with another oid', audit.format_relation(place)
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = format('After a restore: pgseal track %s',
                audit.format_relation(place));
    END IF;
END
$pgseal$;

-- What stands in an image for a value that is too large, as JSON text; NULL if it is not. Masks and keys apart, the
-- values of a row share what jsonb and a text of 1 GB, in which a character can take six bytes, can hold together;
-- ``count`` is how many of them are not small. Policies other than ``keep`` have a limit of 1 MB.
CREATE FUNCTION audit.fit(value anyelement, oversize text, name text, count bigint) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $pgseal$
DECLARE
    most    bigint := CASE oversize WHEN 'keep' THEN 150000000 / greatest(count, 1) ELSE 1000000 END;
    content bytea;
BEGIN
    IF pg_column_size(value) <= 4000 THEN
        RETURN NULL;
    END IF;
    IF pg_typeof(value) = 'bytea'::regtype THEN
        content := value;
        IF octet_length(content) * 2 + 2 <= most THEN
            RETURN NULL;
        END IF;
    ELSE
        BEGIN
            content := convert_to(format('%s', value), 'UTF8');
            IF octet_length(content) <= most THEN
                RETURN NULL;
            END IF;
        EXCEPTION WHEN program_limit_exceeded OR internal_error THEN
            content := NULL;  -- more than 1 GB when printed
        END;
    END IF;
    IF oversize = 'reject' THEN
        RAISE EXCEPTION 'pgseal: the value of column % is larger than % bytes, which the audit policy of the table rejects',
            quote_ident(name), most
            USING ERRCODE = 'program_limit_exceeded',
                  HINT = 'Store less, or have pgseal record a digest: oversize = "digest" in pgseal.toml, then pgseal apply.';
    END IF;
    RETURN jsonb_build_object('pgseal', 'digest', 'length', octet_length(content), 'sha256', encode(sha256(content), 'hex'));
END
$pgseal$;

-- Where the table's large values are. IMMUTABLE is meant as "for the life of a plan", like has_layout.
CREATE FUNCTION audit.toast_of(relation regclass) RETURNS oid
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $pgseal$
BEGIN
    RETURN (SELECT c.reltoastrelid FROM pg_class AS c WHERE c.oid = relation);
END
$pgseal$;

-- The last four characters of what is long enough not to be told by them.
CREATE FUNCTION audit.mask_last4(value text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $pgseal$
    SELECT '****' || CASE WHEN length(value) > 8 THEN right(value, 4) ELSE '' END
$pgseal$;

-- For tables whose policy rejects changes that name no actor.
CREATE FUNCTION audit.check_actor(claim jsonb, place oid) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $pgseal$
BEGIN
    IF audit.claimed_actor(claim) IS NULL THEN
        RAISE EXCEPTION 'pgseal: a change of % must name an actor', audit.format_relation(place)
            USING ERRCODE = 'insufficient_privilege', HINT = $hint$In the same transaction, before it: SELECT audit.set_context('{"actor": "alice"}')$hint$;
    END IF;
END
$pgseal$;

-- One value as JSON text, masked as ``mask`` says; ``reference`` is trusted SQL, and so is ``fit``, which gives what is to
-- stand for a value that is too large.
CREATE FUNCTION audit.format_value(reference text, mask text, fit text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $pgseal$
    SELECT format('CASE WHEN num_nulls(%s) = 1 THEN ''null'' %s END', reference, CASE coalesce(mask, '')
        WHEN 'redact' THEN $$ELSE '"[redacted]"'$$
        WHEN 'last4' THEN format($$ELSE to_json(audit.mask_last4(format('%%s', %s)))::text$$, reference)
        WHEN 'hash' THEN format($$ELSE to_json(audit.mask_hash(format('%%s', %s)))::text$$, reference)
        ELSE format($$ELSE coalesce(CASE WHEN pg_column_size(%1$s) > 4000 THEN %2$s END,
            CASE WHEN pg_typeof(%1$s) = 'jsonb'::regtype THEN audit.mark_json(to_json(%1$s)::jsonb)::text
            WHEN pg_typeof(%1$s) = ANY (ARRAY['bool', 'int8', 'int2', 'int4', 'uuid', 'date', 'time', 'timetz', 'timestamp',
            'timestamptz', 'numeric', 'interval', '"char"', 'name', 'text', 'varchar', 'bpchar']::regtype[]) THEN to_json(%1$s)::text
            ELSE to_json(format('%%s', %1$s))::text END)$$, reference, fit)
    END)
$pgseal$;

-- A JSON object of such pairs.
CREATE FUNCTION audit.format_object(pairs text, otherwise text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $pgseal$
    SELECT CASE WHEN pairs IS NULL THEN otherwise
        ELSE format($$('{' || concat_ws(', ', VARIADIC ARRAY[%s]::text[]) || '}')::jsonb$$, pairs) END
$pgseal$;

-- Capture of TRUNCATE, shared by all tables. It fires before, while the rows are there, on every relation that holds some;
-- on a partitioned table after, when all of them are recorded.
--
-- Each row becomes a DELETE record if the policy says so. What stands for all of them is one TRUNCATE record, of a
-- partition TRUNCATE_PARTITION, with the number of rows. Where the rows cannot be read, it says why.
CREATE FUNCTION audit.capture_truncate() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET row_security = off
SET TimeZone = 'UTC' SET DateStyle = 'ISO, MDY' SET IntervalStyle = 'postgres' SET extra_float_digits = 1
SET bytea_output = 'hex' SET xmlbinary = 'base64' SET lc_monetary = 'C' SET quote_all_identifiers = off
AS $pgseal$
DECLARE
    claim    jsonb := audit.claimed();
    tracked  audit.tracked;
    relation text;
    place    text := format('ONLY %I.%I', TG_TABLE_SCHEMA, TG_TABLE_NAME);
    obstacle text;
    removed  bigint;
    covered  bigint;
BEGIN
    SELECT t.* INTO tracked FROM audit.tracked AS t
    WHERE t.table_oid = TG_RELID OR t.table_oid IN (SELECT p.relid FROM pg_partition_ancestors(TG_RELID) AS p)
    ORDER BY t.table_oid = TG_RELID DESC LIMIT 1;
    -- After a restore the registry has other oids, and another table may have one of them now. Not so a partition that
    -- was detached.
    IF tracked.relation <> TG_ARGV[0] OR tracked.relation IS NULL AND EXISTS (
        SELECT FROM audit.tracked AS t
        WHERE t.relation = TG_ARGV[0] AND audit.format_relation(t.table_oid) IS DISTINCT FROM t.relation)
    THEN
        RAISE EXCEPTION 'pgseal: capture of % was made for a table with another oid', audit.format_relation(TG_RELID)
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = format('After a restore: pgseal track %s',
                audit.format_relation(TG_RELID));
    END IF;
    IF tracked.require_actor = 'reject' THEN
        PERFORM audit.check_actor(claim, TG_RELID);
    END IF;
    relation := coalesce(audit.format_relation(tracked.table_oid), TG_ARGV[0]);
    IF TG_WHEN = 'AFTER' THEN
        PERFORM audit.append('row', 'data_modification', 'TRUNCATE', 'success', relation, NULL, claim);
        RETURN NULL;
    END IF;
    SELECT CASE
        WHEN c.relkind = 'f' THEN 'foreign table'
        WHEN NOT (has_schema_privilege(c.relnamespace, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'))
            THEN 'pgseal_owner may not read the table'
        WHEN row_security_active(c.oid) THEN 'row level security'
    END INTO obstacle FROM pg_class AS c WHERE c.oid = TG_RELID;
    IF obstacle IS NULL THEN
        IF tracked.truncate = 'rows' THEN
            EXECUTE audit.format_insert(tracked.table_oid::regclass, 'DELETE', false, tracked.exclude_numbers,
                                        tracked.mask_numbers,
                                        CASE tracked.oversize WHEN 'reject' THEN 'digest' ELSE tracked.oversize END,
                                        place, tracked.row_filter) USING claim, jsonb_build_object('part', TG_RELID::bigint);
            GET DIAGNOSTICS removed = ROW_COUNT;
        END IF;
        IF tracked.row_filter IS NOT NULL THEN
            EXECUTE format('SELECT count(*), count(*) FILTER (WHERE %s) FROM %s AS old',
                           audit.format_filter(tracked.table_oid, tracked.row_filter, 'old'), place) INTO removed, covered;
        ELSIF removed IS NULL THEN
            EXECUTE format('SELECT count(*) FROM %s', place) INTO removed;
        END IF;
        IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
            obstacle := 'rows that this transaction''s snapshot does not show';
        END IF;
    END IF;
    PERFORM audit.append(
        'row', 'data_modification', CASE WHEN TG_RELID = tracked.table_oid THEN 'TRUNCATE' ELSE 'TRUNCATE_PARTITION' END,
        'success', relation,
        jsonb_build_object('key', NULL, 'new', NULL, 'old', NULL, 'rows', removed)
            || CASE WHEN tracked.row_filter IS NULL THEN '{}' ELSE jsonb_build_object('covered', covered) END
            || CASE WHEN TG_RELID = tracked.table_oid THEN '{}'
               ELSE jsonb_build_object('part', TG_RELID::bigint, 'partition', audit.format_relation(TG_RELID)) END
            || CASE WHEN obstacle IS NULL THEN '{}' ELSE jsonb_build_object('incomplete', obstacle) END,
        claim);
    RETURN NULL;
END
$pgseal$;
REVOKE ALL ON FUNCTION audit.capture_truncate() FROM PUBLIC;

GRANT EXECUTE ON FUNCTION audit.layout(regclass), audit.live_columns(regclass), audit.format_relation(regclass)
    TO pgseal_sealer, pgseal_reader;

RESET ROLE;
