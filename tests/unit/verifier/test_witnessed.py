"""What the verifier demands where witnesses are configured."""

import pytest
from tests.unit.verifier.samples import ORIGIN, SIGNER, MemoryFiles, Sample, build_files, make_row, sign

from pgseal.core.cosignature import WitnessPolicy
from pgseal.core.keys import KeyType, SignerKey
from pgseal.core.note import add_signatures, cosign_note, parse_note
from pgseal.verifier import Report, Verifier
from pgseal.verifier.compare import form_leaf

PARIS, OSLO, LIMA = (
    SignerKey(f"witness.example/{name}", bytes([number]) * 32, KeyType.COSIGNATURE)
    for number, name in enumerate(("paris", "oslo", "lima"), 1)
)
POLICY = WitnessPolicy(2, {"paris": PARIS.verifier, "oslo": OSLO.verifier, "lima": LIMA.verifier})
NOW = 1_800_000_000


def cosign(note: bytes, *signers: SignerKey, time: int = NOW) -> bytes:
    return add_signatures(note, [cosign_note(parse_note(note)[0], signer, time) for signer in signers])


def root_of(size: int) -> bytes:
    return build_files([form_leaf(make_row(index)) or b"" for index in range(size)])[1]


def verify(sample: Sample, policy: WitnessPolicy | None = POLICY, **held: bytes) -> Report:
    verifier = Verifier(ORIGIN, SIGNER.verifier, MemoryFiles(sample.files), sample.kept, workers=1)
    verifier.check_checkpoint(policy=policy, held=held, now=NOW)
    verifier.check_leaves(None)
    return verifier.finish()


def kinds(report: Report) -> list[tuple[str, str]]:
    return [(finding.kind, finding.where) for finding in report.findings]


def test_the_newest_checkpoint_cosigned_by_enough_is_clean(sample: Sample):
    sample.files["witnessed"] = cosign(sample.files["checkpoint"], PARIS, LIMA)
    report = verify(sample, oslo=sample.files["checkpoint"])
    assert (report.ok, report.witnessed, report.warnings) == (True, 600, ())


def test_without_a_policy_nobody_looks(sample: Sample):
    sample.files["witnessed"] = b"junk"
    assert verify(sample, None).ok


@pytest.mark.parametrize(
    ("signers", "time"),
    [((), NOW), ((PARIS,), NOW), ((PARIS, PARIS), NOW), ((PARIS, OSLO), NOW + 301)],
    ids=["nobody", "one", "one twice", "from the future"],
)
def test_too_few_cosigners_are_a_finding(sample: Sample, signers: tuple[SignerKey, ...], time: int):
    sample.files["witnessed"] = cosign(sample.files["checkpoint"], *signers, time=time)
    report = verify(sample)
    assert kinds(report) == [("signature", "checkpoint")]
    assert report.witnessed is None
    # It says nothing against the checkpoint.
    assert sample.kept.note == sample.files["checkpoint"]


@pytest.mark.parametrize("content", [None, b"", b"junk\n\n"])
def test_no_witnessed_checkpoint_is_a_finding(sample: Sample, content: bytes | None):
    if content is not None:
        sample.files["witnessed"] = content
    assert kinds(verify(sample)) == [("signature", "checkpoint")]


def test_a_wrong_cosignature_of_a_known_witness_is_a_finding(sample: Sample):
    line = cosign_note("other\n", LIMA, NOW)
    sample.files["witnessed"] = add_signatures(cosign(sample.files["checkpoint"], PARIS, OSLO), [line])
    assert kinds(verify(sample)) == [("signature", "checkpoint")]


def test_an_older_one_is_fine_and_warned_of_after_a_minute(sample: Sample):
    older = sign(300, root_of(300))
    sample.files["witnessed"] = cosign(older, PARIS, OSLO, time=NOW - 60)
    assert verify(sample).warnings == ()
    sample.files["witnessed"] = cosign(older, PARIS, OSLO, time=NOW - 61)
    report = verify(sample)
    assert report.ok
    assert report.witnessed == 300
    assert "leaves 300 to 599 are not witnessed" in report.warnings[0]


@pytest.mark.parametrize(
    ("size", "root", "kind"), [(601, None, "rollback"), (600, b"f" * 32, "fork"), (300, b"f" * 32, "fork")]
)
@pytest.mark.parametrize("by", ["the ledger", "a witness"])
def test_a_ledger_that_does_not_continue_what_was_cosigned_is_found(sample: Sample, size, root, kind, by):
    other = sign(size, root or root_of(601))
    sample.files["witnessed"] = cosign(sample.files["checkpoint"] if by == "a witness" else other, PARIS, OSLO)
    report = verify(sample, **({"paris": other} if by == "a witness" else {}))
    assert kinds(report) == [(kind, "checkpoint")]
    assert "paris" in report.findings[0].detail
    assert sample.kept.note is None


def test_what_a_witness_shows_counts_only_with_the_logs_signature(sample: Sample):
    sample.files["witnessed"] = cosign(sample.files["checkpoint"], PARIS, OSLO)
    forged = sign(601, b"f" * 32, SignerKey(ORIGIN, b"z" * 32))
    report = verify(sample, lima=forged, oslo=b"junk")
    assert report.ok
    assert len(report.warnings) == 2
