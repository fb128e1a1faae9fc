"""Sets of packages by name: `with` in the cluster file."""

from collections.abc import Collection

KUBERNETES = "kubernetes"
"""It comes with the field `kubernetes` of an image, and not by `with`."""

DNSMASQ = "dnsmasq-base"
"""The DNS server of Pods runs from it: the program without a service of its own."""

# What each would recommend is listed: recommended packages are not installed.
_PACKAGES = {
    "devel": (
        *("gcc", "g++", "gfortran", "libc6-dev", "make", "cmake", "pkgconf", "gdb", "git", "patch"),
        *("python3-dev", "python3-pip", "python3-venv", "libopenmpi-dev", "ca-certificates"),
        *("man-db", "manpages", "manpages-dev", "tmux", "vim"),
    ),
    "containers": (
        *("podman", "crun", "uidmap", "slirp4netns", "passt", "fuse-overlayfs"),
        *("containers-storage", "netavark", "aardvark-dns", "catatonit", "ca-certificates"),
    ),
    "modules": ("lmod",),
    "accounting": ("slurmdbd", "mariadb-server", "slurm-wlm-mysql-plugin"),
    "node-exporter": ("prometheus-node-exporter",),
    "simulated-gpus": ("slurm-wlm-nvml-plugin",),
    # What programs with CUDA need when they run; its script builds the modules. No X, no OpenGL.
    "nvidia": (
        *("nvidia-kernel-support", "nvidia-modprobe", "firmware-nvidia-gsp", "nvidia-smi"),
        *("libnvidia-ml1", "libcuda1", "libnvidia-nvvm4", "slurm-wlm-nvml-plugin"),
    ),
    # What nodes need besides the bundle. HAProxy is for several control planes.
    KUBERNETES: (
        *("containerd", "runc", "containernetworking-plugins", "iptables", "conntrack", "ipset"),
        *("etcd-server", "etcd-client", "ethtool", "socat", "haproxy", "catatonit", "nftables"),
        DNSMASQ,
    ),
}
# The parts of Debian, besides main, that packages of a set are in. The image keeps them as sources.
_COMPONENTS = {
    "simulated-gpus": ("contrib",),
    "nvidia": ("contrib", "non-free", "non-free-firmware"),
}
# With these, documentation is kept, and that of the base's packages which users ask for is added.
_WITH_DOCUMENTATION = frozenset(("devel",))
DOCUMENTED = (
    *("bash", "coreutils", "findutils", "grep", "sed", "gawk", "tar", "util-linux", "procps"),
    *("iproute2", "less", "nano", "rsync", "sudo", "systemd", "openssh-client", "libc-bin"),
    *("slurm-client", "slurmd", "slurmctld", "munge", "openmpi-bin", "openmpi-common"),
)


def packages_in(sets: Collection[str]) -> tuple[str, ...]:
    """The packages of these sets, each once, sorted by name."""
    return tuple(sorted({package for name in sets for package in _PACKAGES[name]}))


def components_in(sets: Collection[str]) -> tuple[str, ...]:
    """The components of Debian besides main that these sets need, each once, sorted by name."""
    return tuple(sorted({one for name in sets for one in _COMPONENTS.get(name, ())}))


def keeps_documentation(sets: Collection[str]) -> bool:
    """Whether an image with these sets has man pages and Debian's documentation."""
    return not _WITH_DOCUMENTATION.isdisjoint(sets)
