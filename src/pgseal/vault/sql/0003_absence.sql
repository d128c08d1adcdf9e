-- The vault, version 3: what explains that records are gone, without looking at every record.

SET LOCAL ROLE pgseal_owner;
CREATE INDEX record_absence_ix ON vault.record (leaf_index)
    WHERE source = 'system' AND action IN ('RETENTION', 'RECOVER');
RESET ROLE;
