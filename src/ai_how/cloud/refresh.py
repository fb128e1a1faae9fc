"""What restarts the components of a node whose files are others than those they were started with.

An identity may come to a node that runs: with a new member, another setting or new certificates.
"""

from collections.abc import Iterable, Sequence

from ai_how.cloud.units import render_script_unit
from ai_how.guest.base_identity import Entry

UNIT = "ai-how-kube-refresh.service"
_SCRIPT = "/etc/ai-how/kube-refresh"
# Each unit goes by its own file, by the files of its name, and by all certificates. In one shell:
# under emulation each program that is started takes a third of a second.
_TEXT = """\
#!/bin/busybox sh
# kube-refresh: restart what runs with other files than it was started with, and note these.
set -eu
mkdir -p /run/ai-how/kube
cd /etc
changed=
for unit in {units}; do
  name=${{unit%.service}}
  sum=$(cat "systemd/system/$unit" "kubernetes/$name".* "kubernetes/${{name#kube-}}".* \\
    kubernetes/encryption.yaml kubernetes/audit.yaml kubernetes/pki/*.* kubernetes/pki/etcd/* \\
    cni/net.d/* ai-how/haproxy.cfg 2> /dev/null | md5sum)
  note=/run/ai-how/kube/$unit
  [ ! -e "$note" ] || [ "$(cat "$note")" = "$sum" ] || changed="$changed $unit"
  printf '%s\\n' "$sum" > "$note"
done
[ "$changed" ] || exit 0
systemctl daemon-reload
# shellcheck disable=SC2086
systemctl try-restart --no-block $changed
"""


def refresh_entries(units: Sequence[str]) -> Iterable[Entry]:
    """The script, with its unit, for the components of a node."""
    yield Entry(_SCRIPT[1:], _TEXT.format(units=" ".join(units)))
    text = render_script_unit(
        "Restart of components with new files", _SCRIPT, before=" ".join(units)
    )
    yield Entry(f"etc/systemd/system/{UNIT}", text)
