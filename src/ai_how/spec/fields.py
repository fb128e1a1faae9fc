"""The types of the values in a cluster file: what each accepts, and the words for it."""

import base64
import binascii
import re
from dataclasses import dataclass
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Network,
    NetmaskValueError,
    ip_address,
)
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, GetCoreSchemaHandler, WithJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

PRIVATE_RANGES = tuple(
    IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
)
SHORTEST_PREFIX, LONGEST_PREFIX = 16, 28


def not_allowed(allowed: str) -> PydanticCustomError:
    """The error of a value that has the right type but is not one of `allowed`."""
    return PydanticCustomError("not_allowed", "{allowed}", {"allowed": allowed})


@dataclass(frozen=True, slots=True)
class Matching:
    """Text that matches a pattern completely; `allowed` describes the pattern in words."""

    pattern: str
    allowed: str

    def __get_pydantic_core_schema__(
        self, source: type[Any], handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        schema = core_schema.no_info_after_validator_function(self.checked, handler(source))
        schema["metadata"] = {"pydantic_js_updates": {"pattern": f"^(?:{self.pattern})$"}}
        return schema

    def checked(self, value: str) -> str:
        if not re.fullmatch(self.pattern, value):
            raise not_allowed(self.allowed)
        return value


def _address(value: object) -> IPv4Address | None:
    if value is None or isinstance(value, IPv4Address):
        return value
    if isinstance(value, str):
        if value.upper() == "DHCP":
            return None
        try:
            return IPv4Address(value)
        except AddressValueError:
            pass
    raise not_allowed("an IPv4 address, or DHCP to let ai-how choose one")


def _host_address(value: str) -> str:
    try:
        address = ip_address(value)
    except ValueError:
        raise not_allowed("an IPv4 or IPv6 address of this host, such as 127.0.0.1") from None
    if "%" in value:
        raise not_allowed("an address without a %zone")
    return str(address)


def _subnet(value: object) -> IPv4Network | None:
    if value is None or value == "auto":
        return None
    try:
        subnet = value if isinstance(value, IPv4Network) else IPv4Network(str(value), strict=False)
    except (AddressValueError, NetmaskValueError, ValueError):
        raise not_allowed("`auto`, or a subnet such as 192.168.100.0/24") from None
    if not any(subnet.subnet_of(private) for private in PRIVATE_RANGES):
        raise not_allowed(f"a private (RFC 1918) range: {', '.join(map(str, PRIVATE_RANGES))}")
    if not SHORTEST_PREFIX <= subnet.prefixlen <= LONGEST_PREFIX:
        raise not_allowed(f"a prefix from /{SHORTEST_PREFIX} to /{LONGEST_PREFIX}")
    if isinstance(value, str) and IPv4Address(value.partition("/")[0]) != subnet.network_address:
        raise not_allowed(f"an address without host bits: {subnet}")
    return subnet


def _boot_limit(value: object) -> object:
    if value is None or value == "auto":
        return None
    is_count = isinstance(value, str) and value.isascii() and value.isdigit()
    if is_count or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise not_allowed("`auto`, or a number of nodes, 1 or more")


def _public_key(value: str) -> str:
    """Keys go to authorized_keys, so options before the type and line breaks are refused."""
    words = value.split(maxsplit=2)
    try:
        blob = base64.b64decode(words[1], validate=True)
    except (IndexError, binascii.Error, ValueError):
        blob = b""
    kind = words[0] if words else ""
    named = len(kind).to_bytes(4, "big") + kind.encode()
    if not kind or not value.isprintable() or not blob.startswith(named) or blob == named:
        raise not_allowed("one line of a .pub file, such as `ssh-ed25519 AAAA... you@host`")
    return " ".join(words)


_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])"
_SSH_URI = (
    rf"qemu\+ssh://(?:[A-Za-z_][A-Za-z0-9_.-]{{0,31}}@)?{_HOST}(?::[0-9]{{1,5}})?/system"
    r"(?:\?keyfile=/[A-Za-z0-9._/@+-]+)?"
)
HOST_URI = Matching(
    rf"auto|embedded|qemu:///system|qemu:///session|{_SSH_URI}",
    "auto, embedded, qemu:///system, qemu:///session, or "
    "qemu+ssh://[user@]host/system with at most ?keyfile=/path",
)

SYSTEM_USERS = frozenset(
    (
        *("root", "daemon", "bin", "sys", "sync", "man", "lp", "mail", "news", "nobody", "sshd"),
        *("slurm", "munge", "messagebus", "_chrony", "systemd-network", "systemd-resolve"),
        *("systemd-timesync", "statd", "_rpc", "backup", "games", "proxy", "uucp", "www-data"),
    )
)
_VITAL_DIRECTORIES = frozenset(
    ("bin", "boot", "etc", "lib", "lib64", "root", "run", "sbin", "tmp", "usr", "var")
)


def _user_name(value: str) -> str:
    if value in SYSTEM_USERS:
        raise not_allowed("a name that is not a system account of the guests")
    return value


# Each node gets these at its start, so an image cannot have them.
_PATHS_OF_NODES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/etc/machine-id")
_TREES_OF_NODES = ("dev", "proc", "run", "sys", "tmp", "home")


def _image_path(value: str) -> str:
    parts = value.split("/")[1:]
    if any(part in ("", ".", "..") for part in parts):
        raise not_allowed("a path without `.`, `..`, `//` or a slash at the end")
    if value in _PATHS_OF_NODES or parts[0] in _TREES_OF_NODES:
        raise not_allowed("a path that is not made anew on each node")
    return value


def _mount_point(value: str) -> str:
    parts = value.split("/")[1:]
    if any(part in ("", ".", "..") for part in parts):
        raise not_allowed("a path without `.`, `..`, `//` or a slash at the end")
    if parts[0] in ("proc", "sys", "dev") or (len(parts) == 1 and parts[0] in _VITAL_DIRECTORIES):
        raise not_allowed("a directory that is not part of the guest's system")
    return value


_VITAL_DIRECTORIES = frozenset(
    ["bin", "boot", "etc", "lib", "lib64", "root", "run", "sbin", "tmp", "usr", "var"]
)


def _pci_address(value: object) -> object:
    """In lower case, with the domain that `lspci` leaves out."""
    if not isinstance(value, str):
        return value
    address = value.lower()
    return f"0000:{address}" if address.count(":") == 1 else address


Label = Annotated[
    str,
    Matching(
        r"[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?",
        "1 to 40 characters of a-z, 0-9 and -, with a letter or digit at both ends",
    ),
]
BridgeName = Annotated[
    str,
    Matching(
        r"[A-Za-z][A-Za-z0-9_.-]{0,14}",
        "1 to 15 letters, digits, `_`, `.` and `-`, with a letter first",
    ),
]
ImageReference = Annotated[
    str,
    Matching(
        r"[^-\s\x00-\x1f\x7f][^\x00-\x1f\x7f]{0,1023}",
        "a name in `images` or in the store, a path, or https://…#sha256=…",
    ),
]
ImageName = Annotated[
    str,
    Matching(
        r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}",
        "1 to 80 letters, digits, `.`, `_` and `-`, with a letter or digit first",
    ),
]
PackageName = Annotated[
    str,
    Matching(
        r"[a-z0-9][a-z0-9.+-]{0,126}[a-z0-9.+](?:=[A-Za-z0-9][A-Za-z0-9.+~:-]{0,127})?",
        "the name of a Debian package such as python3-numpy, or NAME=VERSION",
    ),
]
ImagePath = Annotated[
    str,
    Matching(r"/[^\x00-\x1f\x7f]{1,1023}", "an absolute path in the image"),
    AfterValidator(_image_path),
]
HostFile = Annotated[
    str,
    Matching(
        r"[^-\s\x00-\x1f\x7f][^\x00-\x1f\x7f]{0,1023}",
        "a path of the host, such as ./site.sh",
    ),
]
AnsibleTag = Annotated[
    str,
    Matching(r"[^-,\s\x00-\x1f\x7f][^,\s\x00-\x1f\x7f]{0,99}", "a tag of Ansible such as base"),
]
AnsiblePattern = Annotated[
    str,
    Matching(
        r"[^-\s\x00-\x1f\x7f][^\s\x00-\x1f\x7f]{0,999}",
        "hosts or groups, such as compute or controller:gpu",
    ),
]
HttpsUrl = Annotated[
    str,
    Matching(
        r"https://[^\s/#?\x00-\x1f\x7f][^\s#\x00-\x1f\x7f]{0,2047}", "an https:// URL without #"
    ),
]
FileOrUrl = Annotated[
    str,
    Matching(
        r"https://[^\s/#?\x00-\x1f\x7f][^\s#\x00-\x1f\x7f]{0,2047}"
        r"|(?!\w+://)[^-\s\x00-\x1f\x7f][^\x00-\x1f\x7f]{0,1023}",
        "an https:// URL, or a path of the host",
    ),
]
Sha256 = Annotated[
    str,
    Matching(r"[0-9A-Fa-f]{64}", "64 hexadecimal digits, as sha256sum prints them"),
    AfterValidator(str.lower),
]
Sha512 = Annotated[
    str,
    Matching(r"[0-9A-Fa-f]{128}", "128 hexadecimal digits, as sha512sum prints them"),
    AfterValidator(str.lower),
]
KubernetesVersion = Annotated[
    str,
    Matching(
        r"(?:0|[1-9][0-9]{0,4})(?:\.(?:0|[1-9][0-9]{0,4})){2}(?:-(?:alpha|beta|rc)\.[0-9]{1,4})?",
        "three numbers such as 1.34.2, or a pre-release such as 1.35.0-rc.1",
    ),
]
BuildCommand = Annotated[
    str,
    Matching(
        r"[^\s\x00-\x1f\x7f][^\x00-\x08\x0b-\x1f\x7f]{0,65535}",
        "a command for sh, or a script beside the file, such as ./install.sh",
    ),
]
AbsolutePath = Annotated[
    str, Matching(r"/[^\x00-\x1f\x7f]{0,1023}", "an absolute path without control characters")
]
PathOfFile = Annotated[
    str, Matching(r"[^\x00-\x1f\x7f]{1,1024}", "a path without control characters")
]
MountPoint = Annotated[
    str,
    Matching(r"/[A-Za-z0-9._/@+-]{1,254}", "an absolute path of letters, digits and ._/@+-"),
    AfterValidator(_mount_point),
]
MountTag = Annotated[
    str,
    Matching(
        r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,35}",
        "1 to 36 letters, digits, `_`, `.` and `-`, not starting with `.` or `-`",
    ),
]
MountOptions = Annotated[
    str, Matching(r"[A-Za-z0-9_=,.:-]{0,255}", "options of mount(8) such as rw,relatime")
]
FileMode = Annotated[str, Matching(r"0?[0-7]{3}|[0-7]{4}", "an octal mode such as 0755")]
AccountName = Annotated[
    str,
    Matching(r"[a-z_][a-z0-9_-]{0,31}|[0-9]{1,9}", "the name or number of an account in the guest"),
]
UserName = Annotated[
    str,
    Matching(
        r"[a-z_][a-z0-9_-]{0,30}",
        "1 to 31 characters of a-z, 0-9, `_` and `-`, with a letter first",
    ),
    AfterValidator(_user_name),
]
PublicKey = Annotated[str, AfterValidator(_public_key)]
HostUri = Annotated[str, HOST_URI]
CpuModel = Annotated[
    str,
    Matching(
        r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}",
        "host, host-passthrough, host-model, maximum, or a QEMU model such as qemu64",
    ),
]
CpuFeature = Annotated[
    str,
    Matching(r"[+-]?[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", "+name to require it, -name to disable it"),
]
PciAddress = Annotated[
    str,
    BeforeValidator(_pci_address),
    Matching(
        r"[0-9a-f]{4}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]", "an address such as 0000:65:00.0 (lspci -D)"
    ),
]
_PRODUCT_NAME = r"[A-Za-z0-9][A-Za-z0-9 ()\[\]/._+-]{0,63}"
CardModel = Annotated[
    str,
    Matching(
        _PRODUCT_NAME,
        "a letter or digit, then at most 63 of letters, digits, blanks and ()[]/._+-",
    ),
]
VgpuProfile = Annotated[
    str,
    Matching(
        _PRODUCT_NAME,
        "a type of vGPU by its id or name, such as nvidia-63, 1148 or GRID T4-1Q",
    ),
]
PciId = Annotated[
    str,
    BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value),
    Matching(r"[0-9a-f]{4}", "four hexadecimal digits (lspci -n)"),
]
SlurmTime = Annotated[
    str,
    Matching(
        r"UNLIMITED|INFINITE|unlimited|infinite|[0-9]{1,7}(?::[0-5]?[0-9])?|[0-9]{1,5}:[0-5]?[0-9]:[0-5]?[0-9]"
        r"|[0-9]{1,4}-[0-9]{1,2}(?::[0-5]?[0-9]){0,2}",
        "minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]], "
        "or UNLIMITED",
    ),
]
GresType = Annotated[
    str,
    Matching(
        r"(?!no_consume$)[a-z][a-z0-9_.-]{0,39}",  # that is a word of SLURM
        "a lower-case letter, then at most 39 of a-z, 0-9, `_`, `.` and `-`",
    ),
]
MigProfile = Annotated[
    str,
    Matching(r"[1-7]g\.[0-9]{1,3}gb(\+[a-z.]{1,12})?", "a MIG profile such as 1g.10gb"),
]
PartitionName = Annotated[
    str,
    Matching(
        r"(?!(?:DEFAULT|default|ALL|all)$)[A-Za-z][A-Za-z0-9_-]{0,39}",
        "1 to 40 letters, digits, `_` and `-`, with a letter first; not DEFAULT or ALL",
    ),
]
Address = Annotated[
    IPv4Address | None,
    BeforeValidator(_address),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "format": "ipv4"}, {"enum": ["DHCP"]}, {"type": "null"}]}
    ),
]
Port = Annotated[int, Field(ge=1, le=65535)]
HostAddress = Annotated[str, AfterValidator(_host_address)]
Subnet = Annotated[
    IPv4Network | None,
    BeforeValidator(_subnet),
    WithJsonSchema(
        {"anyOf": [{"const": "auto"}, {"type": "string", "pattern": r"^[0-9.]+/(1[6-9]|2[0-8])$"}]}
    ),
]
BootLimit = Annotated[
    Annotated[int, Field(ge=1)] | None,
    BeforeValidator(_boot_limit),
    WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1}]}),
]
KeepDays = Annotated[int, Field(ge=1, le=366)]
