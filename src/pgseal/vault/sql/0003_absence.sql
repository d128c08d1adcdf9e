-- The vault, version 3: what explains that records are gone, and what bounds their times, without looking at every record.

SET LOCAL ROLE pgseal_owner;
CREATE INDEX record_absence_ix ON vault.record (leaf_index)
    WHERE source = 'system' AND action IN ('RETENTION', 'RECOVER');
CREATE INDEX record_erase_ix ON vault.record (leaf_index) WHERE source = 'system' AND action = 'ERASE';
CREATE INDEX record_heartbeat_ix ON vault.record (time) WHERE source = 'system' AND action = 'HEARTBEAT';
RESET ROLE;
