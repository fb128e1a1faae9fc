"""What must hold of a Kubernetes cluster after each fault, besides that of invariants.py.

Its keys are private, of one CA, and what running nodes were told; no node is closed by us that is
on; what a user closed stays closed.
"""

import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

from ai_how.cloud import certificates
from ai_how.cloud.identities import pki_of
from ai_how.cloud.leaves import CAS
from invariants import ENDS, FAILURES, Watched
from tiny_cloud import CloudHome, MadeUpApi
from tiny_cluster import Ended

WORKER = "worker-01"
WORDS = {
    "start": ("cloud", "start"),
    "stop": ("cloud", "stop"),
    "suspend": ("cloud", "stop", "--suspend"),
    "destroy": ("cloud", "destroy", "--force"),
    "status": ("--json", "cloud", "status"),
    "drain": ("cloud", "stop", WORKER),
    "join": ("cloud", "start", WORKER),
    "rotate": ("cloud", "start", "--rotate-certs"),
}


@dataclass
class CloudWatched(Watched):
    """The same of a Kubernetes cluster; it is `partly` there when one worker was stopped alone."""

    words: ClassVar[Mapping[str, Sequence[str]]] = WORDS
    ends: ClassVar[Mapping[str, str]] = {**ENDS, "drain": "partly", "join": "on", "rotate": "on"}
    home: CloudHome
    name: str = "sky"
    closed: set[str] = field(default_factory=set)
    """The nodes that a user closed."""
    outdated: set[bytes] = field(default_factory=set)
    """Certificates that were to be made anew: none is there when the cluster is up."""
    _kept: dict[str, bytes] = field(default_factory=dict)

    @property
    def pki(self) -> Path:
        return pki_of(self.home.paths(self.name))

    @property
    def api(self) -> MadeUpApi:
        return self.home.api(self._state().lineage)

    def learn_all(self) -> "CloudWatched":
        """See every verb once."""
        self.learn()
        self._live(
            ("start", "start", "on"),
            ("drain", "drain", "partly"),
            ("join", "join", "on"),
            ("rotate", "rotate", "on"),
            ("suspend", "suspend", "suspended"),
            ("resume", "start", "on"),
            ("destroy", "destroy", "absent"),
        )
        return self

    def check(self, fault: Ended, then: str, *, codes: Collection[int] = (0, *FAILURES)) -> None:
        was = self.now
        super().check(fault, then, codes=codes)
        # Of a worker that was off, the start may have been undone after it took Pods again.
        assert then != "drain" or was != "on" or WORKER in self.api.closed, "it was not drained"

    def close(self, node: str) -> None:
        """As a user does, who wants no new Pods there."""
        self.api.close(node)
        self.closed.add(node)

    def leaves(self) -> set[bytes]:
        """All that can be made anew: the certificates of nodes and of the administrator."""
        return {path.read_bytes() for path in self._leaf_files()}

    def _leaf_files(self) -> list[Path]:
        return [*self.pki.glob("admin.pem"), *self.pki.glob("nodes/**/*.pem")]

    def _have(self, what: str) -> None:
        if what == "partly":
            self._have("on")
            self.call("drain", codes={0})
            self._became(what)
        else:
            super()._have(what)

    def _became(self, what: str) -> None:
        super()._became(what)
        if what in {"absent", "undone"}:
            self.forget()

    def forget(self) -> None:
        """What comes next is another cluster, with keys and an API of its own."""
        self.closed, self.outdated, self._kept = set(), set(), {}

    def _compare(self, what: str) -> None:
        super()._compare(what)
        self.check_private()
        if what not in {"absent", "undone"}:
            self._check_keys()
            self._check_closed(what)
        if what == "on":
            self._check_told()

    def check_private(self) -> None:
        """No file that has a key is readable by others."""
        for path in self.home.paths(self.name).secrets.rglob("*"):
            mode = stat.S_IMODE(path.stat().st_mode)
            wanted = (
                {0o700} if path.is_dir() else {0o600, 0o644} if path.suffix == ".pub" else {0o600}
            )
            assert mode in wanted, f"{path} has mode {mode:o}"

    def _check_keys(self) -> None:
        """What is never replaced is as it was; each leaf is of a CA that is there."""
        kept = {path.name: path.read_bytes() for path in self.pki.iterdir() if path.is_file()}
        del kept["admin.pem"]
        self._kept = self._kept or kept
        assert kept == self._kept, "a key of the whole cluster was replaced"
        cas = [certificates.read_certificate(kept[f"{name}.pem"]) for name in CAS]
        issuers = {ca.subject: ca for ca in cas}
        for path in self._leaf_files():
            leaf = certificates.read_certificate(path.read_bytes())
            leaf.verify_directly_issued_by(issuers[leaf.issuer])

    def _check_closed(self, what: str) -> None:
        closed = self.api.closed
        assert {name for name, who in closed.items() if who == "user"} == self.closed
        ours = set(closed) - self.closed
        if what in {"on", "partly"}:
            assert ours <= ({WORKER} if what == "partly" else set()), "closed by us"

    def _check_told(self) -> None:
        """What a node was told last is what is kept here."""
        told = self.api.told
        assert set(told) == {one.name for one in self._state().nodes}
        ca = (self.pki / "ca.pem").read_bytes()
        for name, keys in told.items():
            assert keys["ca.crt"] == _digest(certificates.certificate_of(ca))
            for path in (self.pki / "nodes" / name).rglob("*.pem"):
                leaf, pem = path.relative_to(self.pki / "nodes" / name), path.read_bytes()
                text = certificates.certificate_of(pem)
                assert keys[str(leaf.with_suffix(".crt"))] == _digest(text), f"{leaf} of {name}"
        assert not self.outdated & self.leaves()


def _digest(text: bytes) -> str:
    return sha256(text).hexdigest()
