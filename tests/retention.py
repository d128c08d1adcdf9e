"""A trail that is years old: partitions of the past, and rows moved there before they are sealed."""

from pathlib import Path

from tests.deployments import TRAIL, Deployment, deploy, query

#: The oldest partition of `make_old`, which has no rows, and the two that `deploy_old` fills.
OLDEST, FIRST, SECOND = "audit.record_before_2020q1", "audit.record_2020q1", "audit.record_2020q2"
_PARTITIONS = {FIRST: ("2020-01-01", "2020-04-01"), SECOND: ("2020-04-01", "2020-07-01")}
PER_QUARTER = 30


def make_old(dsn: str) -> None:
    """Give a fresh trail the partitions of one that was installed in 2019."""
    newest = query(dsn, "SELECT relation, upper_end::text FROM audit.partitions() LIMIT 1")[0]
    query(dsn, f"ALTER TABLE audit.record DETACH PARTITION {newest[0]}")
    query(
        dsn, f"ALTER TABLE audit.record ATTACH PARTITION {newest[0]} FOR VALUES FROM ('2020-07-01Z') TO ('{newest[1]}')"
    )
    for name, (begin, end) in _PARTITIONS.items():
        query(dsn, f"SET ROLE pgseal_owner; SELECT audit.make_partition('{name[6:]}', '{begin}Z', '{end}Z')")
    query(dsn, "SELECT audit.ensure_partitions()")


def write_old(dsn: str, moment: str, count: int = PER_QUARTER) -> list[int]:
    """Write audited rows, not sealed yet, that are as old as `moment`; their ids in the trail."""
    before = query(dsn, "SELECT coalesce(max(id), 0) FROM audit.record")[0][0]
    query(dsn, "INSERT INTO item (note) SELECT 'x' FROM generate_series(1, %s)", count)
    query(dsn, f"UPDATE audit.record SET recorded_at = timestamptz '{moment}Z' + mod(id, 50) * '1 hour'::interval "
               "WHERE id > %s", before)  # fmt: skip
    return [row[0] for row in query(dsn, "SELECT id FROM audit.record WHERE id > %s ORDER BY id", before)]


def set_retention(deployment: Deployment, retention: str | None = "400 days") -> None:
    text = "".join(line for line in deployment.config.read_text().splitlines(True) if not line.startswith("retention"))
    if retention is not None:
        text = text.replace("[[source]]\n", f'[[source]]\nretention = "{retention}"\n')
    deployment.config.write_text(text)


def deploy_old(source: str, vault: str, directory: Path) -> Deployment:
    """A deployment with a retention, and sealed rows in two old partitions and of today."""
    query(source, "CREATE TABLE item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)")
    deployment = deploy(source, vault, directory)
    make_old(source)
    deployment.track("item")
    write_old(source, "2020-02-01")
    deployment.seal()
    write_old(source, "2020-05-01")
    query(source, "INSERT INTO item (note) SELECT 'now' FROM generate_series(1, 40)")
    deployment.seal()
    set_retention(deployment)
    return deployment


def partitions(dsn: str) -> list[str]:
    return [row[0] for row in query(dsn, "SELECT relation FROM audit.partitions()")]


def loose_tables(dsn: str) -> list[str]:
    """Tables in schema audit that are like partitions and are none."""
    return [
        row[0]
        for row in query(
            dsn,
            "SELECT relname FROM pg_class WHERE relnamespace = 'audit'::regnamespace AND relkind = 'r' "
            "AND relname LIKE 'record\\_%' AND NOT relispartition",
        )
    ]


def check_retained(deployment: Deployment, count: int) -> None:
    """`verify` finds nothing, and `count` records are gone from the trail as sealed records say."""
    document = deployment.call("verify")
    assert document["findings"] == []
    assert document["retained"] == ({TRAIL: count} if count else {})
    assert len(deployment.sealed_ids()) - len(deployment.trail_ids()) == count


def check_seamless(dsn: str) -> None:
    found = query(dsn, "SELECT lower_end::text, upper_end::text, is_detaching FROM audit.partitions()")
    assert found[0][0] == "-infinity"
    assert [one[1] for one in found[:-1]] == [one[0] for one in found[1:]]
    assert not any(one[2] for one in found)
