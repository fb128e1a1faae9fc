"""What is said of the certificates of a node, by the script that runs there."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ai_how.cloud.causes import KubernetesDiagnosis
from ai_how.cloud.certificates import certificate_of, make_ca
from ai_how.cloud.look import CERTIFICATES
from ai_how.clusters.diagnosis.kind import NodeAnswer
from ai_how.clusters.diagnosis.look import read_sections
from ai_how.clusters.diagnosis.node_evidence import NodeEvidence
from ai_how.process import run

NOW = datetime.now(UTC)
LIFE = timedelta(days=3652)  # of a CA


def causes(directory: Path) -> list[tuple[str, str]]:
    script = CERTIFICATES.replace("/etc/kubernetes/pki", str(directory))
    sections = read_sections(run(["sh", "-c", script]).stdout)
    evidence = KubernetesDiagnosis().read([NodeAnswer("worker-01", False, sections)])
    found = evidence.find_causes(NodeEvidence(name="worker-01", domain="sky-worker-01"))
    return [(one.id, one.evidence[0]) for one in found if one.id.startswith("certificate")]


def put(path: Path, begin: datetime) -> None:
    path.write_bytes(certificate_of(make_ca("kubelet", begin)))


@pytest.mark.parametrize(
    ("begin", "cause"),
    [
        (NOW - LIFE - timedelta(days=1), "certificate-over"),
        (NOW + timedelta(days=1), "certificate-early"),
        (NOW - LIFE + timedelta(days=10), "certificate-soon"),
        (NOW, None),
    ],
)
def test_the_certificate_that_does_not_fit_is_named(
    tmp_path: Path, begin: datetime, cause: str | None
) -> None:
    put(tmp_path / "ca.crt", NOW)
    put(tmp_path / "kubelet.crt", begin)
    (found, *others) = causes(tmp_path) or [(None, "")]
    assert others == []
    assert found[0] == cause
    if cause:
        last = (begin + LIFE).strftime("%b %d %H:%M:%S %Y GMT")
        assert found[1].startswith(f"{tmp_path}/kubelet.crt: notBefore=")
        assert found[1].endswith(f" notAfter={last}")


def test_what_is_no_certificate_says_nothing_and_hides_none(tmp_path: Path) -> None:
    (tmp_path / "a.crt").write_text("no certificate")
    broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    (tmp_path / "b.crt").write_text(broken)
    (tmp_path / "c.crt").write_text("")
    put(tmp_path / "d.crt", NOW - LIFE - timedelta(days=1))
    # As `openssl ca` writes it.
    (tmp_path / "d.crt").write_text(f"Certificate:\n  Data:\n{(tmp_path / 'd.crt').read_text()}")
    [(cause, line)] = causes(tmp_path)
    assert cause == "certificate-over"
    assert line.startswith(f"{tmp_path}/d.crt: ")


def test_nothing_is_started_for_a_certificate() -> None:
    assert "openssl" not in CERTIFICATES
