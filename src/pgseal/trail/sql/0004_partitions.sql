-- Partitions of the trail by their bounds: no gap that an insert could fall into, whatever the clock says, and none made
-- twice where the clock was set back.

SET LOCAL ROLE pgseal_owner;

CREATE FUNCTION audit.partitions()
RETURNS TABLE (relation text, bound text, lower_end timestamptz, upper_end timestamptz, is_detaching boolean)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, MDY'
AS $pgseal$
    SELECT audit.format_relation(c.oid), e.bound,
           CASE b.ends[1] WHEN 'MINVALUE' THEN '-infinity' ELSE trim(b.ends[1], '''') END::timestamptz,
           CASE b.ends[2] WHEN 'MAXVALUE' THEN 'infinity' ELSE trim(b.ends[2], '''') END::timestamptz,
           i.inhdetachpending
    FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
    CROSS JOIN LATERAL pg_get_expr(c.relpartbound, c.oid) AS e(bound)
    CROSS JOIN LATERAL regexp_match(e.bound, '^FOR VALUES FROM \((.*)\) TO \((.*)\)$') AS b(ends)
    WHERE i.inhparent = 'audit.record'::regclass
    ORDER BY 3
$pgseal$;
COMMENT ON FUNCTION audit.partitions() IS 'the partitions of the trail, oldest first; is_detaching: a DETACH was broken off';

-- No statistics of content: the planner has no use for them, and ANALYZE would keep copies of values that erasure does
-- not reach.
CREATE FUNCTION audit.keep_no_statistics(relation regclass) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $pgseal$
BEGIN
    EXECUTE format('ALTER TABLE %s ', relation) || (
        SELECT string_agg(format('ALTER COLUMN %I SET STATISTICS 0', name), ', ')
        FROM unnest(ARRAY['key', 'old', 'new', 'data', 'session_role', 'effective_role', 'authenticated_role',
                          'application', 'address', 'claimed']) AS name);
END
$pgseal$;

-- Makes one partition of the trail, under the first name that is free. Standalone and then attached, which does not
-- block writers as CREATE ... PARTITION OF would.
CREATE FUNCTION audit.make_partition(wanted_name text, lower_end timestamptz, upper_end timestamptz) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, MDY'
AS $pgseal$
DECLARE
    name   text := wanted_name;
    number integer := 1;
BEGIN
    WHILE to_regclass(format('audit.%I', name)) IS NOT NULL LOOP
        number := number + 1;
        name := wanted_name || '_' || number;
    END LOOP;
    EXECUTE format('CREATE TABLE audit.%I (LIKE audit.record INCLUDING COMMENTS)', name);
    EXECUTE format('REVOKE UPDATE, DELETE, TRUNCATE ON audit.%I FROM pgseal_owner', name);
    EXECUTE format('CREATE INDEX ON audit.%I (id)', name);
    PERFORM audit.keep_no_statistics(format('audit.%I', name)::regclass);
    EXECUTE format('ALTER TABLE audit.record ATTACH PARTITION audit.%I FOR VALUES FROM (%s) TO (%L)', name,
                   CASE WHEN isfinite(lower_end) THEN quote_literal(lower_end) ELSE 'MINVALUE' END, upper_end);
END
$pgseal$;

-- One partition a quarter, two years ahead, without a gap from the beginning of time. No default partition, which would
-- forbid DETACH CONCURRENTLY. Returns how many it made.
--
-- Never waits long for a lock: whoever works on the trail for hours (DETACH CONCURRENTLY does, beside a long transaction)
-- must not hold up the sealer, and there are years to try again.
CREATE OR REPLACE FUNCTION audit.ensure_partitions(ahead interval DEFAULT '2 years') RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET TimeZone = 'UTC' SET DateStyle = 'ISO, MDY' SET lock_timeout = '3s'
AS $pgseal$
DECLARE
    made    integer := 0;
    quarter timestamptz := date_trunc('quarter', now());
    gap     record;
    latest  timestamptz;
    next_end timestamptz;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('pgseal audit.ensure_partitions', 0));
    -- What was noted of moves that came to nothing (0002_capture.sql).
    DELETE FROM audit.moving AS m WHERE m.xid < pg_snapshot_xmin(pg_current_snapshot());
    DELETE FROM audit.moved AS m WHERE m.xid < pg_snapshot_xmin(pg_current_snapshot());
    -- Where partitions were dropped: a clock that is set back far must find one, too.
    FOR gap IN
        SELECT g.lower_end, g.upper_end
        FROM (SELECT lag(p.upper_end, 1, '-infinity') OVER (ORDER BY p.lower_end) AS lower_end, p.lower_end AS upper_end
              FROM audit.partitions() AS p) AS g
        WHERE g.lower_end < g.upper_end
        ORDER BY g.upper_end
    LOOP
        PERFORM audit.make_partition(to_char(gap.upper_end, '"record_before_"YYYY"q"Q'), gap.lower_end, gap.upper_end);
        made := made + 1;
    END LOOP;
    SELECT coalesce(max(p.upper_end), '-infinity') INTO latest FROM audit.partitions() AS p;
    WHILE latest <= now() + ahead LOOP
        -- The first reaches back to the beginning of time; one after a long pause, to the last there was.
        next_end := greatest(quarter, date_trunc('quarter', latest)) + interval '3 months';
        PERFORM audit.make_partition(to_char(next_end - interval '3 months', '"record_"YYYY"q"Q'), latest, next_end);
        made := made + 1;
        latest := next_end;
    END LOOP;
    RETURN made;
EXCEPTION WHEN lock_not_available THEN
    RETURN 0;
END
$pgseal$;

SELECT audit.keep_no_statistics(t.relid) FROM pg_partition_tree('audit.record') AS t;

GRANT EXECUTE ON FUNCTION audit.partitions() TO pgseal_sealer;

RESET ROLE;
