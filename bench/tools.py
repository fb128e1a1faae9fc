"""The tools that one would take instead: what each is given to be at its best, and its command.

Each makes three machines of 1 vCPU and 1 GiB from the same image, with the acceleration that works
here and, where it lets one choose, the CPU model that is quick to emulate.
"""

import json
import shutil
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from site_of_peers import (
    ADDRESSES,
    IMAGE,
    NETWORK,
    NODES,
    PREFIX,
    Site,
    ensure_packages,
    ensure_venv,
    run,
)

LIBVIRT_PYTHON = "libvirt-python==12.8.0"
EMULATED_MODEL = "Nehalem"  # ours, too: what is newer costs more to emulate than it saves
MEMORY_MIB = 1024
DISK_GIB = 10


@dataclass(frozen=True)
class Prepared:
    """A tool that is ready: nothing of this is on the clock, but `command`."""

    version: str
    command: list[str]
    user: str
    note: str
    packages: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)


class Tool(Protocol):
    """One tool. `prepare` raises MissingError where it cannot be had."""

    name: str
    what: str

    def prepare(self, site: Site) -> Prepared: ...


class Kcli:
    name = "kcli"
    what = "create plan --threaded, 3 VMs"

    PINNED = "kcli==99.0.202610251748"

    def prepare(self, site: Site) -> Prepared:
        ensure_packages("genisoimage")
        venv = ensure_venv(self.PINNED, LIBVIRT_PYTHON)
        settings = site.home / ".kcli"
        settings.mkdir()
        client = {"type": "kvm", "host": "127.0.0.1", "url": site.uri, "pool": "default"}
        write_json(settings / "config.yml", {"default": {"client": "bench"}, "bench": client})
        # It would install the guest agent at the first boot, from the internet.
        machine = {
            "image": IMAGE,
            "numcpus": 1,
            "memory": MEMORY_MIB,
            "virttype": site.domain_type,
            "nested": False,
            "disks": [DISK_GIB],
            "guestagent": False,
        }
        if not site.has_kvm:
            machine["cpumodel"] = EMULATED_MODEL
        plan = site.home / "kcli_plan.yml"
        write_json(
            plan,
            {
                name: {**machine, "nets": [{"name": NETWORK, "mac": mac}]}
                for name, (mac, _) in NODES.items()
            },
        )
        return Prepared(
            version=self.PINNED.partition("==")[2],
            command=[
                str(venv / "bin" / "kcli"),
                "create",
                "plan",
                "--threaded",
                "-f",
                str(plan),
                "bench",
            ],
            user="root",
            note=f"{site.acceleration}; virttype and cpumodel by its plan",
            packages=freeze(venv),
        )


class VirtLightning:
    name = "virt-lightning"
    what = "vl up, 3 VMs"

    PINNED = "virt-lightning==2.5.0"
    # Its directory for images is a constant; the pool is of the bench.
    WRAPPER = """import sys
import virt_lightning.virt_lightning
virt_lightning.virt_lightning.DEFAULT_STORAGE_DIR = {pool!r}
from virt_lightning.shell import main
sys.exit(main())
"""

    def prepare(self, site: Site) -> Prepared:
        ensure_packages("genisoimage")
        venv = ensure_venv(self.PINNED, LIBVIRT_PYTHON)
        settings = site.home / "virt-lightning.ini"
        settings.write_text(
            f"[main]\nlibvirt_uri = {site.uri}\nstorage_pool = default\n"
            f"network_name = {NETWORK}\nnetwork_cidr = {PREFIX}\n"
            f"network_auto_clean_up = False\nssh_key_file = {site.key}.pub\n"
        )
        machines = site.home / "virt-lightning.yaml"
        shared = {"distro": Path(IMAGE).stem, "username": "bench", "memory": MEMORY_MIB, "vcpus": 1}
        shared["disks"] = [{"size": DISK_GIB}]
        write_json(
            machines,
            [
                {**shared, "name": name, "networks": [{"network": NETWORK, "ipv4": address}]}
                for name, address in ADDRESSES.items()
            ],
        )
        wrapper = site.home / "vl.py"
        wrapper.write_text(self.WRAPPER.format(pool=str(site.pool)))
        options = ["--config", str(settings), "up", "--virt-lightning-yaml", str(machines)]
        return Prepared(
            version=self.PINNED.partition("==")[2],
            command=[str(venv / "bin" / "python"), str(wrapper), *options],
            user="bench",
            note=f"{site.acceleration}; CPU host-model, as it lets one choose none; its constant "
            "for the directory of images set by a wrapper",
            packages=freeze(venv),
        )


class VagrantLibvirt:
    name = "vagrant-libvirt"
    what = "vagrant up, 3 VMs"

    BOX = "bench"

    def prepare(self, site: Site) -> Prepared:
        ensure_packages("genisoimage", "vagrant", "vagrant-libvirt")
        environment = {
            "VAGRANT_DEFAULT_PROVIDER": "libvirt",
            "VAGRANT_CHECKPOINT_DISABLE": "1",
            "VAGRANT_HOME": str(site.home / ".vagrant.d"),
        }
        self.add_box(site, environment)
        seed = make_seed(site)
        (site.home / "Vagrantfile").write_text(self.render(site, seed))
        packages = run("dpkg-query", "--show", "vagrant", "vagrant-libvirt").splitlines()
        return Prepared(
            version=packages[1].split()[1],
            command=["vagrant", "up", "--parallel"],
            user="vagrant",
            note=f"{site.acceleration}; driver and cpu_model by its Vagrantfile; user and key by a "
            "NoCloud seed as a CD-ROM",
            packages=["=".join(line.split()) for line in packages],
            environment=environment,
        )

    def add_box(self, site: Site, environment: dict[str, str]) -> None:
        """A box of the same image, added, and its volume already in the pool."""
        parts = site.home / "box"
        parts.mkdir()
        metadata = {"provider": "libvirt", "format": "qcow2", "virtual_size": 3}
        write_json(parts / "metadata.json", metadata)
        (parts / "Vagrantfile").write_text('Vagrant.configure("2") { |config| }\n')
        (parts / "box.img").hardlink_to(site.pool / IMAGE)
        box = site.home / "bench.box"
        with tarfile.open(box, "w") as archive:
            for path in sorted(parts.iterdir()):
                archive.add(path, path.name)
        shutil.rmtree(parts)
        set_up = [f"{name}={value}" for name, value in environment.items()]
        site.run("env", *set_up, "vagrant", "box", "add", "--name", self.BOX, str(box))
        box.unlink()
        (added,) = (site.home / ".vagrant.d" / "boxes" / self.BOX).rglob("box.img")
        # The name that handle_box_image.rb gives a box without a version.
        mtime = int(added.stat().st_mtime)
        shutil.copy(added, site.pool / f"{self.BOX}_vagrant_box_image_0_{mtime}_box.img")
        site.virsh("pool-refresh", "default")

    def render(self, site: Site, seed: Path) -> str:
        cpu = "" if site.has_kvm else f"l.cpu_mode, l.cpu_model = 'custom', '{EMULATED_MODEL}'"
        machines = "\n".join(
            f"  config.vm.define '{name}' do |m|\n"
            f"    m.vm.provider(:libvirt) {{ |l| l.management_network_mac = '{mac}' }}\n  end"
            for name, (mac, _) in NODES.items()
        )
        return f"""Vagrant.configure('2') do |config|
  config.vm.box = '{self.BOX}'
  config.vm.box_check_update = false
  config.vm.boot_timeout = 900
  config.vm.synced_folder '.', '/vagrant', disabled: true
  config.ssh.insert_key = false
  config.ssh.private_key_path = '{site.key}'
  config.vm.provider :libvirt do |l|
    l.uri = '{site.uri}'
    l.driver = '{site.domain_type}'
    l.storage_pool_name = 'default'
    l.management_network_name = '{NETWORK}'
    l.management_network_address = '{PREFIX}'
    l.cpus, l.memory = 1, {MEMORY_MIB}
    {cpu}
    l.storage :file, device: :cdrom, path: '{seed}'
  end
{machines}
end
"""


TOOLS: tuple[Tool, ...] = (Kcli(), VirtLightning(), VagrantLibvirt())


def make_seed(site: Site) -> Path:
    """A NoCloud seed that makes the user `vagrant` with our key, and nothing else."""
    directory = site.home / "seed"
    directory.mkdir()
    (directory / "meta-data").write_text("instance-id: bench\n")
    user = {
        "name": "vagrant",
        "sudo": "ALL=(ALL) NOPASSWD:ALL",
        "shell": "/bin/bash",
        "ssh_authorized_keys": [Path(f"{site.key}.pub").read_text().strip()],
    }
    (directory / "user-data").write_text(f"#cloud-config\n{json.dumps({'users': [user]})}\n")
    seed = site.home / "seed.iso"
    words = ["-quiet", "-output", str(seed), "-volid", "cidata", "-joliet", "-rock"]
    run("genisoimage", *words, str(directory / "user-data"), str(directory / "meta-data"))
    return seed


def freeze(venv: Path) -> list[str]:
    """What is installed in it, with versions."""
    return run(str(venv / "bin" / "pip"), "freeze").splitlines()


def write_json(path: Path, content: object) -> None:
    """JSON is YAML, and needs no library."""
    path.write_text(json.dumps(content, indent=2) + "\n")
