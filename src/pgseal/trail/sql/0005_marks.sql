-- Marks: what the catalog itself notes of whoever touches capture. Each of its rows carries the transaction that wrote
-- it (xmin), which no statement can set: whoever disables a trigger and enables it again, or replaces a function and
-- puts it back, leaves everything as it was but for that. So the marks are kept when capture is made; a digest of them
-- is sealed with the TRACK record, because whoever can do such things to a function can also write to this table.

SET LOCAL ROLE pgseal_owner;

ALTER TABLE audit.tracked ADD COLUMN marks jsonb, ADD COLUMN track_id bigint;
COMMENT ON COLUMN audit.tracked.marks IS 'what audit.marks said when capture was made; NULL if a version made it that kept none';
COMMENT ON COLUMN audit.tracked.track_id IS 'the TRACK record, which has the digest of marks';

-- Of one table, its partitions and its capture function. Of the table's rows only DDL is of interest, which changes
-- them without a trigger: it writes both a column's catalog row and a new file, while VACUUM FULL writes only the latter.
CREATE FUNCTION audit.marks(relation regclass) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $pgseal$
    WITH place AS (
        SELECT c.oid, c.relfilenode, c.relkind FROM pg_class AS c
        WHERE c.oid = $1 OR c.oid IN (SELECT p.relid FROM pg_partition_tree($1) AS p)
    )
    SELECT jsonb_build_object(
        'function', (
            SELECT concat(p.oid, ' ', p.xmin) FROM audit.tracked AS t JOIN pg_proc AS p ON p.proname = t.capture
            WHERE t.table_oid = $1 AND p.pronamespace = 'audit'::regnamespace AND p.pronargs = 0),
        'triggers', (
            SELECT coalesce(jsonb_object_agg(concat(g.tgrelid, ' ', g.tgname), concat(g.oid, ' ', g.xmin)), '{}')
            FROM pg_trigger AS g JOIN place ON place.oid = g.tgrelid WHERE g.tgname ~ '^(zz_)?pgseal_'),
        'parts', (
            SELECT coalesce(jsonb_object_agg(place.oid, audit.format_relation(place.oid)), '{}') FROM place
            WHERE place.oid <> $1 AND place.relkind <> 'p'),
        'files', (SELECT coalesce(jsonb_object_agg(place.oid, place.relfilenode), '{}') FROM place WHERE place.relkind = 'r'),
        'columns', (
            SELECT coalesce(jsonb_object_agg(concat(a.attrelid, ' ', a.attnum), concat(a.xmin, ' ', d.oid)), '{}')
            FROM pg_attribute AS a JOIN place ON place.oid = a.attrelid
            LEFT JOIN pg_attrdef AS d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
            WHERE a.attnum > 0 AND NOT a.attisdropped))
$pgseal$;

-- Of the functions that all tables share, and of the trail's parent table.
CREATE FUNCTION audit.schema_marks() RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp SET quote_all_identifiers = off
AS $pgseal$
    SELECT jsonb_object_agg(m.subject, m.mark) FROM (
        SELECT concat('function ', p.oid::regprocedure) AS subject, concat(p.oid, ' ', p.xmin) AS mark
        FROM pg_proc AS p
        WHERE p.pronamespace = 'audit'::regnamespace
            AND (p.proname = 'capture_truncate' OR NOT starts_with(p.proname, 'capture_'))
        UNION ALL
        SELECT 'table audit.record', concat(c.oid, ' ', c.xmin) FROM pg_class AS c WHERE c.oid = 'audit.record'::regclass
    ) AS m
$pgseal$;

CREATE TABLE audit.made (
    only_row boolean NOT NULL DEFAULT true CONSTRAINT made_pk PRIMARY KEY CONSTRAINT made_one_ck CHECK (only_row),
    marks    jsonb   NOT NULL
);
COMMENT ON TABLE audit.made IS 'what audit.schema_marks said when the schema was made or mended';

CREATE FUNCTION audit.note_marks() RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $pgseal$
    INSERT INTO audit.made (marks) VALUES (audit.schema_marks())
    ON CONFLICT ON CONSTRAINT made_pk DO UPDATE SET marks = excluded.marks
$pgseal$;
COMMENT ON FUNCTION audit.note_marks() IS 'to be called last by every migration that touches a function';

GRANT SELECT ON audit.made TO pgseal_sealer;
GRANT EXECUTE ON FUNCTION audit.marks(regclass), audit.schema_marks() TO pgseal_sealer;

UPDATE audit.tracked SET marks = audit.marks(table_oid);
SELECT audit.note_marks();

RESET ROLE;
