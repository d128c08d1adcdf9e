-- The vault, version 3: what pgseal itself did and found, without looking at every record.

SET LOCAL ROLE pgseal_owner;
CREATE INDEX record_act_ix ON vault.record (action, leaf_index)
    WHERE source = 'system' AND action IN ('RETENTION', 'RECOVER', 'HEARTBEAT', 'CLOCK', 'ERASE', 'KEY_ROTATE');
RESET ROLE;
