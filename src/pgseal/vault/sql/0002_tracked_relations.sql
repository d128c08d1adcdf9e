-- The vault, version 2: which relations there are, without looking at every record. Capture of each began with a TRACK.

SET LOCAL ROLE pgseal_owner;
CREATE INDEX record_track_ix ON vault.record (relation, trail) WHERE source = 'system' AND action = 'TRACK';
RESET ROLE;
