"""Which cards nodes get: named ones with all functions, free ones by count, none twice."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from test_state_models import cluster_state, node

from ai_how.clusters.desired_cluster import DesiredCluster
from ai_how.clusters.preflight.cards import (
    CardFacts,
    NodeCards,
    assign_cards,
    read_card_facts,
    remembered_cards,
)
from ai_how.clusters.preflight.device_users import DeviceUser, devices_of
from ai_how.errors import HostError
from ai_how.gpu.inventory import read_machine
from ai_how.libvirt_client.host_devices import passed_in
from ai_how.spec.nodes import nodes_of
from ai_how.state.cluster_state import write_state
from ai_how.state.models import ClusterState
from ai_how.state.paths import StoragePaths, default_roots, ensure_private_directory
from cluster_bench import draft_of, make_image, read_hpc, rendering_of
from gpu_host import AUDIO, GEFORCE, INTEL, NETWORK, NIC, NVIDIA, SOUND, VGA, GpuHost

SECOND, SECOND_SOUND, THIRD = "0000:b3:00.0", "0000:b3:00.1", "0000:d8:00.0"
NODE = "cpu_cores: 1, memory_gb: 1, disk_gb: 10"
BUSY = DeviceUser("compute-01 of the cluster theirs", "ai-how hpc stop --cluster theirs")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GpuHost:
    """Two GeForces with audio functions, and a H100."""
    monkeypatch.setattr("ai_how.gpu.nvidia_smi.find_tool", lambda _name: None)
    host = GpuHost(tmp_path / "host")
    host.add_geforce(driver="nvidia")
    host.add(SECOND, (NVIDIA, 0x2684), VGA, group=13, driver="nvidia")
    host.add(SECOND_SOUND, (NVIDIA, 0x22BA), AUDIO, group=13, driver="snd_hda_intel")
    host.add(THIRD, (NVIDIA, 0x2330), VGA, group=14)
    return host


def facts(
    host: GpuHost,
    users: Mapping[str, DeviceUser] | None = None,
    elsewhere: frozenset[str] = frozenset(),
) -> CardFacts:
    return CardFacts(machine=read_machine(host.root), users=users or {}, elsewhere=elsewhere)


def assign(
    known: CardFacts,
    *gpus: str,
    remembered: Mapping[str, tuple[str, ...]] | None = None,
    wanted: tuple[str, ...] | None = None,
) -> dict[str, NodeCards]:
    """The cards of nodes with these `gpu` sections (and more, after a comma)."""
    entries = "".join(f"\n      - {{{NODE}, gpu: {gpu}}}" for gpu in gpus)
    nodes = nodes_of(read_hpc(nodes=f"compute_nodes:{entries}"))
    names = wanted if wanted is not None else tuple(node.name for node in nodes)
    return assign_cards(nodes, known, remembered or {}, wanted=names)


def refusal(known: CardFacts, *gpus: str) -> tuple[str, list[str], str | None]:
    with pytest.raises(HostError) as caught:
        assign(known, *gpus)
    error = caught.value
    return error.brief, (error.details or "").splitlines(), error.hint


def test_a_named_card_is_given_with_all_its_functions(host: GpuHost) -> None:
    two = f'{{pci: ["{THIRD}", "{SECOND_SOUND}"]}}'
    assert assign(facts(host), f'{{pci: "{GEFORCE}"}}', two) == {
        "compute-01": NodeCards((GEFORCE,), (GEFORCE, SOUND)),
        "compute-02": NodeCards((THIRD, SECOND), (THIRD, SECOND, SECOND_SOUND)),
    }


def test_what_is_named_and_is_no_card_is_told_with_what_there_is(host: GpuHost) -> None:
    host.add(NIC, (INTEL, 0x1533), NETWORK)
    host.add_l40s()
    cards = [line for line in refusal(facts(host), '{pci: "0000:99:00.0"}')[1] if line]
    assert cards == [
        "0000:5e:00.0 NVIDIA L40S",
        f"{GEFORCE} NVIDIA GeForce RTX 4090",
        f"{SECOND} NVIDIA GeForce RTX 4090",
        f"{THIRD} NVIDIA H100 SXM5 80GB",
    ]
    assert refusal(facts(host), '{pci: "0000:99:00.0"}')[::2] == (
        "there is no device 0000:99:00.0, which compute-01 is to have",
        "ai-how gpu list",
    )
    assert refusal(facts(host), f'{{pci: "{NIC}"}}') == (
        f"{NIC}, which compute-01 is to have, is no GPU",
        ["other devices are given by pcie_passthrough", *cards],
        "ai-how gpu list",
    )
    assert refusal(facts(host), '{pci: "0000:5e:00.4"}') == (
        "0000:5e:00.4, which compute-01 is to have, is a VF of the card 0000:5e:00.0",
        ["gpu.pci takes whole cards; a VF is given by pcie_passthrough"],
        "ai-how gpu explain 0000:5e:00.0",
    )


def test_cards_that_are_to_be_divided_are_chosen_among_those_with_mig(host: GpuHost) -> None:
    assert assign(facts(host), '{count: 1, mig: {"1g.10gb": 7}}')["compute-01"].cards == (THIRD,)
    # A card that is not divided may be any.
    assert assign(facts(host), "{count: 1, mig: {}}")["compute-01"].cards == (GEFORCE,)


def test_a_card_that_cannot_be_divided_so_is_told_before_the_start(host: GpuHost) -> None:
    none = f"{GEFORCE}, which compute-01 is to divide by `mig`, has no MIG: it is "
    assert refusal(facts(host), f'{{pci: "{GEFORCE}", mig: {{"1g.10gb": 1}}}}') == (
        f"{none}NVIDIA GeForce RTX 4090",
        [],
        f"ai-how gpu explain {GEFORCE}",
    )
    has = ["with 80 GB it has: 1g.10gb, 1g.20gb, 2g.20gb, 3g.40gb, 4g.40gb, 7g.80gb"]
    for layout, told in (
        ('{"1g.5gb": 1}', "1 x 1g.5gb"),
        ('{"3g.40gb": 2, "1g.10gb+me": 1}', "2 x 3g.40gb, 1 x 1g.10gb+me"),
    ):
        assert refusal(facts(host), f'{{pci: "{THIRD}", mig: {layout}}}') == (
            f"{THIRD} (NVIDIA H100 SXM5 80GB) cannot be divided into {told}, as compute-01 asks",
            has,
            f"ai-how gpu explain {THIRD}",
        )


def test_graphics_of_the_processor_are_chosen_last(host: GpuHost) -> None:
    host.add("0000:00:02.0", (INTEL, 0x4680), VGA, group=2)
    chosen = assign(facts(host), "{count: 4}")["compute-01"].cards
    assert chosen == (GEFORCE, SECOND, THIRD, "0000:00:02.0")


def test_a_card_that_is_gone_is_only_in_the_way_of_its_own_node(host: GpuHost) -> None:
    gone, there = '{pci: "0000:99:00.0"}', f'{{pci: "{THIRD}"}}'
    given = assign(facts(host), gone, there, wanted=("compute-02",))
    assert given["compute-01"] == NodeCards((), ())
    assert given["compute-02"].cards == (THIRD,)


def test_free_cards_are_chosen_in_order_and_no_two_nodes_share_one(host: GpuHost) -> None:
    names = ("compute-01", "compute-02", "compute-03")
    group = "{count: 1, model: rtx 4090}, count: 2"
    chosen = assign(facts(host), group, "{count: 1}", wanted=names)
    assert {name: one.cards for name, one in chosen.items()} == {
        "compute-01": (GEFORCE,),
        "compute-02": (SECOND,),
        "compute-03": (THIRD,),
    }
    assert chosen["compute-01"].functions == (GEFORCE, SOUND)


def test_what_others_have_or_name_is_not_chosen(host: GpuHost) -> None:
    free = facts(host)
    assert assign(free, "{count: 1}", f'{{pci: "{GEFORCE}"}}')["compute-01"].cards == (SECOND,)
    device = f"{{pci_address: '{SOUND}', device_type: audio}}"
    passed = f"pcie_passthrough: {{enabled: true, devices: [{device}]}}"
    assert assign(free, f"{{count: 1}}, {passed}")["compute-01"].cards == (SECOND,)
    busy = facts(host, {SOUND: BUSY})
    assert assign(busy, "{count: 1}")["compute-01"].cards == (SECOND,)
    named = facts(host, elsewhere=frozenset({GEFORCE, SECOND}))
    assert assign(named, "{count: 1}")["compute-01"].cards == (THIRD,)
    # Others only name it, and it is the only one that is left.
    assert assign(named, "{count: 3}")["compute-01"].cards == (THIRD, GEFORCE, SECOND)


def test_a_card_that_the_host_needs_is_not_chosen(host: GpuHost) -> None:
    host.set(GEFORCE, boot_vga="1")
    (host.device(SECOND) / "drm/card3").mkdir(parents=True)
    host.add_process(812, "game", "/dev/dri/card3")
    assert assign(facts(host), "{count: 1}")["compute-01"].cards == (THIRD,)


def test_a_remembered_choice_is_kept_while_it_fits(host: GpuHost) -> None:
    def chosen(gpu: str, *cards: str) -> tuple[str, ...]:
        remembered = {"compute-01": cards}
        return assign(facts(host), gpu, remembered=remembered)["compute-01"].cards

    assert chosen("{count: 1}", SECOND) == (SECOND,)
    assert chosen("{count: 2}", SECOND) == (SECOND, GEFORCE)
    assert chosen("{count: 1}", THIRD, SECOND) == (THIRD,)
    assert chosen("{count: 1, model: '4090'}", THIRD) == (GEFORCE,)
    assert chosen("{count: 1, model: 4090}", SECOND) == (SECOND,)
    assert chosen("{count: 1}", "0000:99:00.0") == (GEFORCE,)
    # A free card does not take precedence over it, and another node does not take it.
    both = assign(facts(host), "{count: 1}", "{count: 1}", remembered={"compute-02": (GEFORCE,)})
    assert [one.cards for one in both.values()] == [(SECOND,), (GEFORCE,)]
    # In use elsewhere, it is still the node's: the start names who has it.
    taken = facts(host, {SECOND: BUSY})
    kept = assign(taken, "{count: 1}", remembered={"compute-01": (SECOND,)})
    assert kept["compute-01"].cards == (SECOND,)


def test_what_its_own_vm_has_is_chosen_where_nothing_is_remembered(host: GpuHost) -> None:
    own = DeviceUser("compute-01 of the same cluster", None, own_node="compute-01")
    known = facts(host, {SECOND: own, SECOND_SOUND: own})
    assert assign(known, "{count: 1}")["compute-01"].cards == (SECOND,)


def test_a_node_that_is_not_started_gets_no_new_card(host: GpuHost) -> None:
    asked = ["{count: 9}", "{count: 1}"]
    given = assign(facts(host), *asked, wanted=("compute-02",))
    assert given == {
        "compute-01": NodeCards((), ()),
        "compute-02": NodeCards((GEFORCE,), (GEFORCE, SOUND)),
    }


def test_too_few_free_cards_are_told_with_what_stands_in_the_way_of_each(host: GpuHost) -> None:
    host.set(GEFORCE, boot_vga="1")
    known = facts(host, {SECOND: BUSY})
    assert refusal(known, "{count: 2, model: geforce}") == (
        "compute-01 is to have 2 cards whose name has 'geforce', and none is free",
        [
            f"{GEFORCE} NVIDIA GeForce RTX 4090: it is the display that the host booted with",
            f"{SECOND} NVIDIA GeForce RTX 4090: in use by {BUSY.who}",
        ],
        BUSY.hint,
    )
    brief, details, _ = refusal(known, "{count: 1}", "{count: 1}")
    assert brief == "compute-02 is to have 1 card, and none is free"
    assert details[2] == f"{THIRD} NVIDIA H100 SXM5 80GB: compute-01 of this file has it"
    assert refusal(known, "{count: 2}")[0] == "compute-01 is to have 2 cards, and 1 is free"


def test_a_model_that_no_card_has_is_told_with_those_there_are(host: GpuHost) -> None:
    brief, details, hint = refusal(facts(host), "{count: 1, model: A100}")
    assert brief == (
        "compute-01 is to have 1 card whose name has 'A100', and no card of this host is one"
    )
    assert details[0] == f"{GEFORCE} NVIDIA GeForce RTX 4090"
    assert hint == "ai-how gpu list"


def test_a_host_without_gpus_says_so(tmp_path: Path) -> None:
    known = facts(GpuHost(tmp_path / "empty"))
    assert refusal(known, "{count: 1}")[0] == (
        "compute-01 is to have 1 card, and this host has no GPU"
    )
    assert refusal(known, f'{{pci: "{GEFORCE}"}}')[1] == ["this host has no GPU"]


def draft(
    *gpus: str, former: DesiredCluster | None = None, **cards: tuple[str, ...]
) -> DesiredCluster:
    entries = "".join(f"\n      - {{{NODE}, gpu: {gpu}}}" for gpu in gpus)
    named = {name.replace("_", "-"): some for name, some in cards.items()}
    hpc = read_hpc(nodes=f"compute_nodes:{entries}")
    return draft_of(hpc, former.state if former else None, cards=named)


def test_the_choice_is_remembered_and_older_versions_read_a_state_without_one() -> None:
    before = draft(
        "{count: 1}", '{pci: "0000:65:00.0"}', compute_01=(SECOND,), compute_02=(GEFORCE,)
    )
    [controller, first, second] = before.state.as_record()["nodes"]  # type: ignore[misc]
    assert first["cards"] == [SECOND]
    assert "cards" not in controller
    assert "cards" not in second
    assert remembered_cards(before.state) == {"compute-01": (SECOND,)}
    assert ClusterState.model_validate(before.state.as_record()) == before.state
    after = draft('{pci: "0000:65:00.0"}', "{count: 1}", former=before)
    assert remembered_cards(after.state) == {}


def test_functions_are_in_the_vm_and_count_as_devices(tmp_path: Path) -> None:
    functions = {"compute-01": (GEFORCE, SOUND)}
    one = replace(draft("{count: 1}"), functions=functions)
    paths = default_roots(tmp_path).cluster("hpc")
    image = make_image(tmp_path / "image")
    inputs = rendering_of(one, StoragePaths(tmp_path), paths, {image.digest: image})
    xml = {node.name: inputs.domain_xml(node, state) for node, state in one.nodes}
    assert passed_in(xml["compute-01"]) == {GEFORCE, SOUND}
    assert passed_in(xml["controller"]) == frozenset()
    nodes = [node for node, _ in one.nodes]
    assert devices_of(nodes, functions) == {GEFORCE: "compute-01", SOUND: "compute-01"}


def test_the_cards_of_other_clusters_are_known_by_their_definitions(
    host: GpuHost, tmp_path: Path
) -> None:
    roots = default_roots(tmp_path / "state")
    ensure_private_directory(roots.cluster("demo").root)
    write_state(roots.cluster("demo"), cluster_state(name="demo", nodes=(node("compute-01", 11),)))
    roots.cluster("demo").xml.mkdir()
    where = "domain='0x0000' bus='0x65' slot='0x00' function='0x1'"
    device = f"<hostdev type='pci'><source><address {where}/></source></hostdev>"
    (roots.cluster("demo").xml / "demo-compute-01.xml").write_text(
        f"<domain><devices>{device}</devices></domain>"
    )
    assert read_card_facts(host.root, {}, roots, cluster="hpc").elsewhere == {GEFORCE}
    assert read_card_facts(host.root, {}, roots, cluster="demo").elsewhere == frozenset()
