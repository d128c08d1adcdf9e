"""``pgseal demo``: the whole story on PostgreSQL servers of its own.

It runs the real commands, on real servers, against attacks that really happen; nothing of the outcome is written here.
"""

from pgseal.demo.commands import Outcome, Pgseal, require_success
from pgseal.demo.narration import Narrator
from pgseal.demo.story import Home, Options, Verdict, tell

__all__ = ["Home", "Narrator", "Options", "Outcome", "Pgseal", "Verdict", "require_success", "tell"]
