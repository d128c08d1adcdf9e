"""Who, as the actor part of a record says it: facts of the session, and what the application claims."""

from collections.abc import Mapping
from typing import Any, cast


def find_claimed_actor(who: Mapping[str, Any]) -> str | None:
    """Return who the application says acts: ``claimed.actor``, a text or an object with an ``id``.

    None if it did not say, or said nothing (``""``).
    """
    claimed = who.get("claimed")
    actor = cast("Mapping[str, object]", claimed).get("actor") if isinstance(claimed, dict) else None
    if isinstance(actor, dict):
        actor = cast("Mapping[str, object]", actor).get("id")
    return None if actor is None or actor == "" else str(actor)


def names_of_actor(who: Mapping[str, Any]) -> set[str]:
    """Return the names under which an actor may be looked for: the roles, who logged in, the claimed actor."""
    names = (who.get("role"), who.get("set_role"), who.get("authenticated"), find_claimed_actor(who))
    return {str(name) for name in names if name is not None}
