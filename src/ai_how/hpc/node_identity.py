"""The identity of a SLURM node (pure): the base identity, SLURM's files and its services."""

import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field

from ai_how.guest.base_identity import (
    BaseIdentity,
    Entry,
    is_below_home,
    render_directories,
    render_mounts,
)
from ai_how.hpc.gpus import GPUS_UNIT, GRES_UNIT
from ai_how.hpc.mig import MIG_UNIT
from ai_how.hpc.slurm_config import CONTROLLER_PORT, render_cgroup_conf
from ai_how.spec.models import VirtioFsMount
from ai_how.spec.nodes import Role

HOME_MOUNTS = "ai-how-home-mounts.service"
# Part of the identity, so that clusters with an older image have it, too. It runs whenever it is
# started.
_WAIT = "until [ -d {point} ] || [ $n -ge 100 ]; do sleep 0.3; n=$((n + 1)); done\n"
_HOME_MOUNTS_UNIT = """\
[Unit]
Description=Directories of the host below the shared home
After=home.mount
Before=slurmd.service

[Service]
Type=oneshot
ExecStart=/bin/sh /etc/ai-how/home-mounts
"""


@dataclass(frozen=True, kw_only=True)
class NodeIdentity(BaseIdentity):
    """All that turns a VM without an identity into a SLURM node. repr() hides the secrets."""

    home_is_nfs: bool
    home_points: tuple[str, ...] = ()
    """The mount points below the shared home, of all nodes."""
    slurm_conf: str
    has_gpus: bool = False
    """Whether any node of the cluster has GPUs."""
    gpu_files: tuple[Entry, ...] = ()
    """Of a node that has simulated GPUs, or had some once; of the controller of such a node."""
    munge_key: bytes = field(repr=False)

    def services(self) -> tuple[str, ...]:
        common = super().services()
        late = (HOME_MOUNTS,) if self._home_mounts else ()
        if self.role is Role.CONTROLLER:
            home = ("nfs-server.service",) if self.home_is_nfs else ()
            gres = self._gpu_units(GRES_UNIT)
            return ("munge.service", *gres, "slurmctld.service", *late, *home, *common)
        home = ("home.mount",) if self.home_is_nfs else ()
        gpus = self._gpu_units(GPUS_UNIT, MIG_UNIT)
        return ("munge.service", *gpus, *home, *late, "slurmd.service", *common)

    def _gpu_units(self, *known: str) -> tuple[str, ...]:
        """Those of the units that are among its files."""
        names = {one.path.rpartition("/")[2] for one in self.gpu_files}
        return tuple(unit for unit in known if unit in names)

    @property
    def early_shares(self) -> tuple[VirtioFsMount, ...]:
        return tuple(share for share in self.shares if share not in self._late_shares)

    @property
    def _late_shares(self) -> tuple[VirtioFsMount, ...]:
        """Those that the home of the controller would cover: they are mounted after it."""
        if self.role is Role.CONTROLLER or not self.home_is_nfs:
            return ()
        return tuple(share for share in self.shares if is_below_home(share.mount_point))

    @property
    def _home_mounts(self) -> str:
        """The script for shares below the shared home: only its controller makes directories."""
        if self.role is Role.CONTROLLER:
            made = [render_directories(one, self.login) for one in self.home_points]
            return "".join(f"{line}\n" for lines in made for line in lines)
        points = (shlex.quote(share.mount_point) for share in self._late_shares)
        waits = "".join(_WAIT.format(point=one) for one in points)
        return waits and f"n=0\n{waits}{render_mounts(self._late_shares, self.login)}"

    def settings(self) -> dict[str, str]:
        return super().settings() | {"HOME_IS_NFS": "yes" if self.home_is_nfs else ""}

    def entries(self) -> Iterable[Entry]:
        yield from super().entries()
        yield Entry("etc/munge/munge.key", self.munge_key, 0o400, "munge")
        yield from self.gpu_files
        if script := self._home_mounts:
            yield Entry("etc/ai-how/home-mounts", script)
            yield Entry(f"etc/systemd/system/{HOME_MOUNTS}", _HOME_MOUNTS_UNIT)
        if self.role is Role.CONTROLLER:
            yield Entry("etc/slurm/slurm.conf", self.slurm_conf)
            yield Entry("etc/slurm/cgroup.conf", render_cgroup_conf(has_gpus=self.has_gpus))
            if self.home_is_nfs:
                options = "rw,async,no_subtree_check,root_squash"
                yield Entry("etc/exports", f"/home {self.subnet}({options})\n")
        else:
            options = f"--conf-server controller:{CONTROLLER_PORT}"
            yield Entry("etc/default/slurmd", f"SLURMD_OPTIONS='{options}'\n")
