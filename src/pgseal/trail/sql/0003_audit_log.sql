-- For everyone who knows the customary audit_log table: queries written for it work on this view.

SET LOCAL ROLE pgseal_owner;

CREATE VIEW audit.audit_log WITH (security_barrier) AS
SELECT r.id,
       (pg_catalog.parse_ident(r.relation))[2] AS table_name,
       r.action,
       CASE r.action WHEN 'UPDATE' THEN r.new OPERATOR(pg_catalog.||) r.old ELSE r.old END AS old_data,
       r.new AS new_data,
       COALESCE(audit.claimed_actor(r.claimed), r.effective_role, r.session_role) AS actor_id,
       r.recorded_at AS changed_at,
       (pg_catalog.parse_ident(r.relation))[1] AS table_schema
FROM audit.record AS r
WHERE r.source OPERATOR(pg_catalog.=) 'row' AND r.action OPERATOR(pg_catalog.<>) 'SNAPSHOT';
COMMENT ON VIEW audit.audit_log IS 'row changes, in the shape of the customary audit_log table; old_data is the whole former row';

GRANT EXECUTE ON FUNCTION audit.claimed_actor(jsonb) TO pgseal_sealer, pgseal_reader;
GRANT SELECT ON audit.audit_log TO pgseal_reader;

RESET ROLE;
