-- The vault, version 3: what was dropped from trails, without looking at every record.

SET LOCAL ROLE pgseal_owner;
CREATE INDEX record_retention_ix ON vault.record (leaf_index) WHERE source = 'system' AND action = 'RETENTION';
RESET ROLE;
