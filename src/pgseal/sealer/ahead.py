"""``read_ahead``: make the next item while the last one is being used.

Sealing has three stages that wait for different things: reading and encoding for the source, keeping for the vault,
appending for the ledger's disk. Each stage is a generator; ``read_ahead`` between them lets all three work at once.
"""

import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

_Item = TypeVar("_Item")

#: How long a thread that computes may keep one waiting that has only to hand the next bytes to a socket or a file.
_SWITCH_SECONDS = 0.0002


def read_ahead(items: Generator[_Item, None, None]) -> Generator[_Item, None, None]:
    """Yield ``items``, each made in another thread while the one before is in use; raises what making one raises.

    At most one item waits. Closing early lets the item being made be finished, and closes ``items``.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    with closing(items), ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        following = thread.submit(next, items, None)
        while (item := following.result()) is not None:
            following = thread.submit(next, items, None)
            yield item
