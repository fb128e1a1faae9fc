"""The file that `ai-how init` writes and the JSON Schema say what the models say."""

import json
import re
from typing import Any

import pytest

from ai_how.spec.document import json_schema, render_default_file, render_scalar
from ai_how.spec.hardware import Spec
from ai_how.spec.models import ClusterFile
from ai_how.spec.problems import Severity
from ai_how.spec.reader import default_spec, read_spec_text
from ai_how.spec.shape import fields_of, models_in


def all_models(model: type[Spec] = ClusterFile) -> set[type[Spec]]:
    inner = [m for info in fields_of(model).values() for m in models_in(info.annotation)]
    return {model}.union(*(all_models(m) for m in inner))


def test_every_field_has_a_description_and_every_leaf_an_example() -> None:
    for model in all_models():
        for key, info in fields_of(model).items():
            assert info.description, f"{model.__name__}.{key} has no description"
            assert info.examples or models_in(info.annotation), (
                f"{model.__name__}.{key}: no example"
            )


def test_the_default_file_is_the_default_without_a_problem() -> None:
    spec, problems = read_spec_text(render_default_file(), "cluster.yaml", {})
    assert problems == []
    assert spec == default_spec()


def test_the_default_file_explains_every_field() -> None:
    text = render_default_file()
    groups = {m.__name__ for m in all_models()} - {
        "ComputeNodeSpec",
        "WorkerNodeSpec",
        "MigDevicesSpec",
        "MigFileSpec",
    }
    for model in all_models():
        if model.__name__ in groups:
            for key, info in fields_of(model).items():
                assert re.search(rf"^ *#?(- )?{key}:", text, re.MULTILINE), key
                assert (info.description or "")[:40] in text
    # A SHA-512 is longer than a line.
    assert max(len(line) for line in text.splitlines() if "sha512:" not in line) <= 100


def test_every_setting_of_the_default_file_works_once_its_mark_is_taken_away() -> None:
    text = re.sub(r"^( *)#(?=\S)", r"\1", render_default_file(), flags=re.MULTILINE)
    _, problems = read_spec_text(text, "cluster.yaml", {})
    errors = [p.text for p in problems if p.severity is Severity.ERROR]

    def ways(node: str) -> list[str]:
        first, *others = [
            f"a node has `pci` or `{other}`, not both; give one to another node"
            for other in ("count", "vgpu", "simulated")
        ]
        of_vgpu = (
            "the node also has a vGPU by `vgpu.mdev_uuid`; give one to another node",
            f"the card at 0000:65:00.0 is given whole by clusters.{node}.gpu.pci[0]",
        )
        mig = "is of real cards; that of simulated ones is `simulated.mig`"
        return [first, mig, others[0], *of_vgpu, others[1]]

    no_kubernetes = (
        "default has no Kubernetes: leave the field out, or name an image with `kubernetes`"
    )
    assert errors == [
        (
            "one of `name`, `suite`, `path` and `url` is required: `from: default`, "
            "`from: {suite: bookworm}`, or `from: {path: ./image.qcow2}`"
        ),
        "2 nodes cannot all have the vGPU c2177883-f1bb-47f0-914d-32a22e3a8804",
        "2 nodes cannot all have the card 0000:65:00.0; `gpu.count` gives each one",
        *ways("hpc.compute_nodes[0]"),
        "the node has a vGPU; give the simulated ones to another node",
        "'hpcbr0' is also clusters.hpc.network.bridge",
        *[no_kubernetes] * 2,
        "simulated GPUs are for SLURM; remove it",
        *ways("cloud.worker_nodes[0]"),
        *["has no effect: the images that the nodes boot decide it"] * 3,
        "found 'controller'; allowed: control-plane-01, or worker-01",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("auto", "auto"),
        ("1.0", '"1.0"'),
        ("on", '"on"'),
        ("a: b", '"a: b"'),
        ("", '""'),
        (True, "true"),
        (None, "null"),
        (["a"], '["a"]'),
        (1, "1"),
    ],
)
def test_scalars_are_written_so_that_they_are_read_as_they_were(value: object, text: str) -> None:
    assert render_scalar(value) == text


def resolve(schema: dict[str, Any], reference: str) -> dict[str, Any]:
    found: dict[str, Any] = schema["$defs"][reference.rpartition("/")[2]]
    return found


def test_the_schema_is_of_the_file_with_its_own_names() -> None:
    schema = json_schema()
    keys = ["version", "metadata", "global", "host", "images", "clusters"]
    assert list(schema["properties"]) == keys
    assert schema["required"] == ["version", "clusters"]
    assert schema["additionalProperties"] is False
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    json.dumps(schema)


def test_the_schema_takes_compute_nodes_as_a_list_a_group_or_a_mix() -> None:
    schema = json_schema()
    nodes = schema["$defs"]["HpcSpec"]["properties"]["compute_nodes"]
    as_list, as_one = nodes["anyOf"]
    names = [resolve(schema, one["$ref"])["title"] for one in as_one["oneOf"]]
    assert names == ["ComputeNodeSpec", "ComputeGroupSpec"]
    assert as_list == {"type": "array", "items": as_one}


def test_the_patterns_of_the_schema_are_plain_regular_expressions() -> None:
    patterns = re.findall(r'"pattern": "((?:[^"\\]|\\.)*)"', json.dumps(json_schema()))
    assert len(patterns) > 10
    for pattern in patterns:
        assert "(?i" not in pattern
        re.compile(json.loads(f'"{pattern}"'))


def test_the_schema_takes_variables_wherever_a_value_stands() -> None:
    variable = {"type": "string", "pattern": r"\$\{"}
    properties = json_schema()["$defs"]["ComputeNodeSpec"]["properties"]
    assert properties["cpu_cores"]["anyOf"] == [
        {"type": "integer", "minimum": 1, "maximum": 1024},
        variable,
    ]
    assert properties["cpu_cores"]["description"] == "vCPUs."
    assert properties["ip"]["anyOf"][0]["anyOf"][1] == variable


def test_the_schema_takes_a_partition_that_is_only_a_name() -> None:
    partitions = json_schema()["$defs"]["SlurmConfigSpec"]["properties"]["partitions"]
    assert partitions["items"]["anyOf"][1] == {"type": "string"}
