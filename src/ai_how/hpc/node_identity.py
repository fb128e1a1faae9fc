"""The identity of a SLURM node (pure): the base identity, SLURM's files and its services."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from ai_how.guest.base_identity import BaseIdentity, Entry
from ai_how.hpc.slurm_config import CONTROLLER_PORT, render_cgroup_conf
from ai_how.spec.nodes import Role


@dataclass(frozen=True, kw_only=True)
class NodeIdentity(BaseIdentity):
    """All that turns a VM without an identity into a SLURM node. repr() hides the secrets."""

    home_is_nfs: bool
    slurm_conf: str
    munge_key: bytes = field(repr=False)

    def services(self) -> tuple[str, ...]:
        common = super().services()
        if self.role is Role.CONTROLLER:
            home = ("nfs-server.service",) if self.home_is_nfs else ()
            return ("munge.service", "slurmctld.service", *home, *common)
        home = ("home.mount",) if self.home_is_nfs else ()
        return ("munge.service", *home, "slurmd.service", *common)

    def settings(self) -> dict[str, str]:
        return super().settings() | {"HOME_IS_NFS": "yes" if self.home_is_nfs else ""}

    def entries(self) -> Iterable[Entry]:
        yield from super().entries()
        yield Entry("etc/munge/munge.key", self.munge_key, 0o400, "munge")
        if self.role is Role.CONTROLLER:
            yield Entry("etc/slurm/slurm.conf", self.slurm_conf)
            yield Entry("etc/slurm/cgroup.conf", render_cgroup_conf())
            if self.home_is_nfs:
                options = "rw,async,no_subtree_check,root_squash"
                yield Entry("etc/exports", f"/home {self.subnet}({options})\n")
        else:
            options = f"--conf-server controller:{CONTROLLER_PORT}"
            yield Entry("etc/default/slurmd", f"SLURMD_OPTIONS='{options}'\n")
