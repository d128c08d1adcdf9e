-- The vault, version 3: what pgseal itself did and found, without looking at every record.

SET LOCAL ROLE pgseal_owner;
CREATE INDEX record_act_ix ON vault.record (action, leaf_index)
    WHERE source = 'system' AND action IN ('RETENTION', 'RECOVER', 'HEARTBEAT', 'CLOCK', 'ERASE', 'HOLD', 'RELEASE', 'KEY_ROTATE');

-- No statistics of content: ANALYZE would keep copies of values that erasure does not reach.
ALTER TABLE vault.record ALTER COLUMN actor SET STATISTICS 0, ALTER COLUMN actor_salt SET STATISTICS 0,
    ALTER COLUMN data SET STATISTICS 0, ALTER COLUMN data_salt SET STATISTICS 0;
RESET ROLE;
