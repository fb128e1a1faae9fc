"""`expose` in the cluster file."""

import pytest
from test_spec_fields import MINIMAL, problems

from ai_how.clusters.plans.ports import ports_of
from ai_how.spec.nodes import get_hpc
from ai_how.spec.reader import read_spec_text
from cluster_bench import draft_of, read_hpc


def test_defaults_are_the_same_port_at_loopback() -> None:
    hpc = read_hpc("expose: [{node: compute-01, port: 8888}]")
    draft = draft_of(hpc)
    [port] = ports_of(hpc, draft.state)
    assert str(port) == "127.0.0.1:8888 -> compute-01:8888"
    assert port.node_address == str(draft.state.get_node("compute-01").ip)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{node: compute-09, port: 1}", "expose[0].node: found 'compute-09'; allowed: controller"),
        ("{node: controller, port: 0}", "expose[0].port: found '0'; the minimum is 1"),
        ("{node: controller, port: 65536}", "expose[0].port: found '65536'; the maximum is 65535"),
        ("{node: controller}", "expose[0].port: is required"),
        ("{port: 80}", "expose[0].node: is required"),
        ("{node: controller, port: 1, host_port: x}", "expose[0].host_port: found 'x'; expected"),
        ("{node: controller, port: 1, address: here}", "expose[0].address: found 'here'; allowed"),
        ("{node: controller, port: 1, address: 'fe80::1%eth0'}", "without a %zone"),
        ("{node: controller, port: 1, adress: 127.0.0.1}", "did you mean `address`?"),
        ("{node: controller, port: 1}, {node: compute-01, port: 1}", "expose[1].port: 1 is also"),
        (
            "{node: controller, port: 9, address: 0.0.0.0}, {node: controller, port: 9}",
            "expose[1].port: 9 is also",
        ),
        ("{node: controller, port: 1, address: 0.0.0.0}", "every host that reaches 0.0.0.0"),
    ],
)
def test_what_cannot_be_is_told_with_its_line(entry: str, said: str) -> None:
    found = problems(f"expose: [{entry}]")
    line = len(MINIMAL.splitlines()) + 1
    assert any(said in one and one.startswith(f"f:{line}: ") for one in found), found


@pytest.mark.parametrize(
    "entries",
    [
        "{node: controller, port: 1}, {node: controller, port: 1, address: 127.0.0.2}",
        "{node: controller, port: 1}, {node: controller, port: 1, address: '::1'}",
        "{node: controller, port: 1, host_port: 2}, {node: controller, port: 2, host_port: 1}",
    ],
)
def test_the_same_port_of_other_addresses_is_fine(entries: str) -> None:
    assert problems(f"expose: [{entries}]") == []


def test_a_file_with_it_is_read() -> None:
    text = MINIMAL + "    expose: [{node: controller, port: 80, host_port: 8080}]\n"
    spec, found = read_spec_text(text, "f", {})
    assert not found
    assert spec is not None
    assert get_hpc(spec).expose[0].place == ("127.0.0.1", 8080)
