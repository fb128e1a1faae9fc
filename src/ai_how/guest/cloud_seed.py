"""The disk by which cloud-init lets us in to a system of others: a NoCloud seed.

https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html: a file system of ISO 9660
with the label `cidata`, and the files `meta-data` and `user-data`. cloud-init takes it from any
block device.
"""

import io
import json
from pathlib import Path
from uuid import UUID

LABEL = "cidata"


def render_user_data(user: str, public_key: str) -> str:
    """One account with sudo, whose only way in is a key; nothing else is changed.

    It is none of the numbers that people have, and the account of the image is not made.
    """
    wanted = {
        "users": [
            {
                "name": user,
                "uid": ACCOUNT_ID,
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "lock_passwd": True,
                "shell": "/bin/sh",
                "ssh_authorized_keys": [public_key],
            }
        ],
        "ssh_pwauth": False,
        "ssh_genkeytypes": ["ed25519"],
        "package_update": False,
        "package_upgrade": False,
        "apt": {"preserve_sources_list": True},
    }
    # JSON is YAML.
    return f"#cloud-config\n{json.dumps(wanted, indent=1)}\n"


ACCOUNT_ID = 59990


def write_seed(path: Path, *, instance: UUID, hostname: str, user_data: str) -> None:
    """Write the seed to a new file. It holds no secret: of the key, only the public part."""
    # Needed only where an image is prepared.
    from pycdlib import PyCdlib  # noqa: PLC0415

    meta_data = json.dumps({"instance-id": str(instance), "local-hostname": hostname})
    disk = PyCdlib()
    disk.new(vol_ident=LABEL, joliet=3, rock_ridge="1.09")
    for name, short, text in (
        ("meta-data", "/METADATA.;1", meta_data),
        ("user-data", "/USERDATA.;1", user_data),
    ):
        content = text.encode()
        disk.add_fp(io.BytesIO(content), len(content), short, rr_name=name, joliet_path=f"/{name}")
    with path.open("xb") as file:
        disk.write_fp(file)
    disk.close()
