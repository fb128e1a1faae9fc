"""The script that looks at Kubernetes on a node, for what is wrong with it (pure).

It prints sections; the names of those begin lines with `==`.
"""

from ai_how.cloud.dns import DNS_PORT, NAMES, SERVER
from ai_how.cloud.guest import LAST, NAMES_PROGRAM, PROGRAM

_TAIL = 40

# Of a unit that it does not have, systemd says that it is inactive.
_UNITS = """\
echo '== {section}'; systemctl show -p Id -p ActiveState -p SubState -p Result {units}
"""
_NODE_UNITS = "containerd kubelet kube-proxy"
_PLANE_UNITS = "ai-how-etcd kube-apiserver kube-controller-manager kube-scheduler"
CNI = "echo '== cni'; ls /etc/cni/net.d 2>&1\n"
# Each of them says in its last lines what it fails of. The kubelet's are many.
_WORDS = """\
echo '== said_{name}'; journalctl -b --no-pager -o cat -n {lines} -u {unit} 2>&1
"""
NODE = _WORDS.format(name="kubelet", unit="kubelet", lines=_TAIL) + _WORDS.format(
    name="containerd", unit="containerd", lines=_TAIL
)
PLANE = f"""\
{_WORDS.format(name="etcd", unit="ai-how-etcd", lines=_TAIL)}\
{_WORDS.format(name="apiserver", unit="kube-apiserver", lines=_TAIL)}\
echo '== api'; timeout 20 {PROGRAM} nodes 2>&1
echo
echo '== waits'; cat {LAST} 2>/dev/null
"""
# Only where the node was told to have one. The program asks as a Pod would, and says what is wrong.
DNS = f"""\
(. /etc/ai-how/identity; case " $SERVICES " in *" {SERVER}.service "*)
{_UNITS.format(section="dns_units", units=f"{SERVER} {NAMES}")}\
echo '== dns'; timeout 20 {NAMES_PROGRAM} ask "${{ADDRESS%/*}}" {DNS_PORT} 2>&1
{_WORDS.format(name="names", unit=NAMES, lines=_TAIL)}\
  ;;
esac)
"""
# They are read on the host: on an emulated node, each openssl takes a third of a second.
CERTIFICATES = """\
echo '== certificates'
for file in /etc/kubernetes/pki/*.crt; do
  echo "file $file"
  while read -r line; do echo "$line"; done < "$file"
done
echo "now $(date -u '+%b %e %H:%M:%S %Y GMT')"
"""


def render_look(*, is_controller: bool) -> str:
    """The script for a node."""
    units = f"{_NODE_UNITS} {_PLANE_UNITS}" if is_controller else _NODE_UNITS
    asked = _UNITS.format(section="units", units=units) + CNI + NODE
    return asked + (PLANE + DNS if is_controller else "") + CERTIFICATES
