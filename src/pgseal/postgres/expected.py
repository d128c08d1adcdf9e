"""Whether a schema is still what pgseal made: its functions, tables, owners, privileges, and nothing besides.

What it should be is not written down a second time. The statements that made it are run once more under another
schema's name, in a transaction that is rolled back; then both schemas are described by the same query, and the
descriptions compared.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import LiteralString, cast

from pgseal.errors import ConfigError
from pgseal.postgres.connection import Connection, quote_name


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that was changed outside pgseal; ``missing`` is what should be there, ``extra`` what should not.

    ``is_ours`` is false for what pgseal never made.
    """

    subject: str
    missing: Sequence[str]
    extra: Sequence[str]
    is_ours: bool


def compare_schema(
    connection: Connection,
    schema: str,
    statements: Iterable[str],
    *,
    side: str,
    is_skipped: Callable[[str], bool] = lambda _: False,
) -> list[Difference]:
    """Compare a schema with what ``statements`` would make.

    Args:
        connection: autocommit connection of a role that may install the schema.
        schema: its name.
        statements: trusted SQL that makes it.
        side: words for errors.
        is_skipped: the subjects that are not compared.

    Raises:
        ConfigError: the role may not create a schema.
    """
    _check_may_create(connection, schema, side)
    scratch = f"pgseal_expected_{connection.info.backend_pid}"
    with connection.transaction(force_rollback=True):
        for statement in statements:
            connection.execute(cast("LiteralString", re.sub(rf"\b{schema}\b", scratch, statement)))
        expected, found = _describe(connection, scratch, schema), _describe(connection, schema, schema)
    nothing: frozenset[str] = frozenset()
    differences = [
        Difference(
            subject,
            sorted(expected.get(subject, nothing) - found.get(subject, nothing)),
            sorted(found.get(subject, nothing) - expected.get(subject, nothing)),
            subject in expected,
        )
        for subject in sorted(expected.keys() | found.keys())
        if not is_skipped(subject)
    ]
    return [difference for difference in differences if difference.missing or difference.extra]


def _check_may_create(connection: Connection, schema: str, side: str) -> None:
    row = connection.execute("SELECT has_database_privilege(current_database(), 'CREATE')").fetchone()
    if row != (True,):
        user, database = quote_name(connection.info.user), quote_name(connection.info.dbname)
        raise ConfigError(
            f"{side}: {user} may not make the schema that {schema} is compared with, and which is rolled back; "
            f"as the database's owner: GRANT CREATE ON DATABASE {database} TO {user}"
        )


def _describe(connection: Connection, place: str, schema: str) -> dict[str, frozenset[str]]:
    """Describe what is in schema ``place`` as if it were called ``schema``."""
    rows = connection.execute(_DESCRIPTION, {"schema": place}).fetchall()
    found: dict[str, set[str]] = {}
    for subject, fact in rows:
        found.setdefault(subject.replace(place, schema), set()).add(fact.replace(place, schema))
    return {subject: frozenset(facts) for subject, facts in found.items()}


# One row for each fact. Partitions of the trail come and go: they are one subject together.
_PRIVILEGE: LiteralString = "concat_ws(' ', 'privilege', coalesce(r.rolname, 'PUBLIC'), a.privilege_type"
_DESCRIPTION: LiteralString = f"""
WITH schema AS (SELECT oid, nspowner, nspacl FROM pg_namespace WHERE nspname = %(schema)s),
relation AS (
    SELECT c.*, CASE WHEN c.relispartition THEN 'a partition of ' || %(schema)s || '.record'
        ELSE (CASE c.relkind WHEN 'v' THEN 'view ' WHEN 'S' THEN 'sequence ' WHEN 'c' THEN 'type ' ELSE 'table ' END)
             || %(schema)s || '.' || c.relname END AS subject
    FROM pg_class c JOIN schema ON c.relnamespace = schema.oid WHERE c.relkind IN ('r', 'p', 'v', 'S', 'c', 'm', 'f')
)
SELECT 'schema ' || %(schema)s, 'owner ' || pg_get_userbyid(nspowner) FROM schema
UNION ALL
SELECT 'schema ' || %(schema)s, {_PRIVILEGE})
FROM schema CROSS JOIN aclexplode(coalesce(nspacl, acldefault('n', nspowner))) a
LEFT JOIN pg_roles r ON r.oid = a.grantee
UNION ALL
SELECT f.subject, fact FROM (
    SELECT 'function ' || p.oid::regprocedure AS subject, p.* FROM pg_proc p JOIN schema ON p.pronamespace = schema.oid
) f CROSS JOIN LATERAL (
    SELECT 'definition ' || pg_get_functiondef(f.oid)
    UNION ALL SELECT 'owner ' || pg_get_userbyid(f.proowner)
    UNION ALL SELECT {_PRIVILEGE})
    FROM aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) a LEFT JOIN pg_roles r ON r.oid = a.grantee
) AS facts(fact)
UNION ALL
SELECT c.subject, fact FROM relation c CROSS JOIN LATERAL (
    SELECT 'owner ' || pg_get_userbyid(c.relowner)
    UNION ALL
    SELECT concat_ws(' ', 'security', c.relrowsecurity, c.relforcerowsecurity, 'persistence', c.relpersistence)
    UNION ALL
    SELECT {_PRIVILEGE})
    FROM aclexplode(coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))) a
    LEFT JOIN pg_roles r ON r.oid = a.grantee WHERE c.relkind <> 'c'
    UNION ALL
    SELECT {_PRIVILEGE}, 'on column', t.attname)
    FROM pg_attribute t CROSS JOIN aclexplode(t.attacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
    WHERE t.attrelid = c.oid
    UNION ALL
    SELECT concat_ws(' ', 'column', t.attname, format_type(t.atttypid, t.atttypmod),
                     CASE WHEN t.attnotnull THEN 'NOT NULL' END, pg_get_expr(d.adbin, d.adrelid))
    FROM pg_attribute t LEFT JOIN pg_attrdef d ON d.adrelid = t.attrelid AND d.adnum = t.attnum
    WHERE t.attrelid = c.oid AND t.attnum > 0 AND NOT t.attisdropped AND c.relkind <> 'S'
    UNION ALL
    SELECT concat_ws(' ', 'constraint', k.conname, pg_get_constraintdef(k.oid))
    FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype <> 'n' AND NOT c.relispartition
    UNION ALL
    SELECT 'index ' || pg_get_indexdef(i.indexrelid) FROM pg_index i WHERE i.indrelid = c.oid AND NOT c.relispartition
    UNION ALL
    SELECT 'trigger ' || pg_get_triggerdef(t.oid) FROM pg_trigger t WHERE t.tgrelid = c.oid AND NOT t.tgisinternal
    UNION ALL
    SELECT 'rule ' || pg_get_ruledef(w.oid) FROM pg_rewrite w WHERE w.ev_class = c.oid
    UNION ALL
    SELECT 'policy ' || p.polname FROM pg_policy p WHERE p.polrelid = c.oid
    UNION ALL
    SELECT 'published in ' || p.pubname FROM pg_publication p JOIN pg_publication_rel l ON l.prpubid = p.oid
    WHERE l.prrelid = c.oid
    UNION ALL
    SELECT concat_ws(' ', 'sequence', s.seqincrement, s.seqcache, s.seqcycle, s.seqmax)
    FROM pg_sequence s WHERE s.seqrelid = c.oid
) AS facts(fact)
"""  # noqa: S608  only constants are put in
