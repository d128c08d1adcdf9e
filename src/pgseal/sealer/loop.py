"""``run``: seal until told to stop, and wait for what cannot be reached."""

import time
from threading import Event

from pgseal.core.heartbeat import INTERVAL_SECONDS
from pgseal.errors import ConflictError, UnavailableError
from pgseal.sealer.seal import Report, Sealer
from pgseal.sealer.watch import PartitionWatch
from pgseal.settings import Settings

_POLL_SECONDS = 0.2
_MAX_PAUSE_SECONDS = 30.0
_MAINTENANCE_SECONDS = 6 * 3600.0
_HEARTBEAT_SECONDS = 0.8 * INTERVAL_SECONDS


def run(settings: Settings, stop: Event, report: Report) -> None:
    """Seal until ``stop`` is set. A side that cannot be reached is waited for, with growing pauses.

    ``report`` gets one line when a side is lost and one when it is back, and one for each partition of a tracked table
    that came or went. Raises what a person has to act on.
    """
    watch = PartitionWatch(settings)
    pause = 1.0
    waiting = has_worked = False
    while not stop.is_set():
        try:
            sealer = Sealer.open(settings, report)
            has_worked = True
            maintain_at = time.monotonic() + _MAINTENANCE_SECONDS
            beat_at = 0.0
            try:
                while not stop.is_set():
                    began = time.monotonic()
                    if began > maintain_at:
                        break  # opening again checks every side and makes partitions
                    if sealer.has_new_key():
                        report("the key was changed; sealing goes on with it")
                        break
                    if began > beat_at:
                        sealer.beat()
                        beat_at = began + _HEARTBEAT_SECONDS
                    sealed = sealer.seal_once(stop=stop).sealed
                    watch.tell(report)
                    if waiting:
                        report("back at work")
                        waiting = False
                    pause = 1.0
                    if not sealed:
                        stop.wait(max(0.0, _POLL_SECONDS - (time.monotonic() - began)))
            finally:
                sealer.close()
        except (UnavailableError, ConflictError) as error:
            # After a lost connection the vault may take our own lock for someone else's for a while.
            if isinstance(error, ConflictError) and not has_worked:
                raise
            report(f"{error}; nothing is lost, retrying in {pause:.0f} s")
            waiting = True
            stop.wait(pause)
            pause = min(pause * 2, _MAX_PAUSE_SECONDS)
