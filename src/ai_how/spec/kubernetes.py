"""Kubernetes in the cluster file: where it comes from, and how it is set up."""

from ipaddress import IPv4Network
from typing import Annotated, Literal

from pydantic import Field

from ai_how.spec import fields
from ai_how.spec.hardware import Spec

DEFAULT_VERSION = "1.34.2"
"""What a cluster has whose file names neither a version nor a bundle."""
IMAGE = "kubernetes"
"""The image that a file with a Kubernetes cluster has by itself."""

Dns = Literal["own", "bundle", "none"]
"""Who answers for the names of Services: we, the manifests of the bundle, or nobody."""


class KubernetesSourceSpec(Spec):
    version: Annotated[
        fields.KubernetesVersion | None,
        Field(
            description="The version of Kubernetes. Without a bundle it is downloaded from "
            "dl.k8s.io.",
            examples=[DEFAULT_VERSION],
        ),
    ] = None
    bundle: Annotated[
        fields.FileOrUrl | None,
        Field(
            description="kubernetes-server-linux-amd64.tar.gz, as Kubernetes publishes it, or a "
            "directory or tar with the same layout: a path relative to this file, or a URL with "
            "sha256.",
            examples=["./kubernetes-server-linux-amd64.tar.gz"],
        ),
    ] = None
    sha256: Annotated[
        fields.Sha256 | None,
        Field(description="The SHA-256 of the file that is read.", examples=["0" * 64]),
    ] = None


class KubernetesConfigSpec(KubernetesSourceSpec):
    distribution: Annotated[
        Literal["upstream", "k3s"],
        Field(
            description="upstream: what the Kubernetes project publishes. k3s cannot be started "
            "yet.",
            examples=["upstream"],
        ),
    ] = "upstream"
    cni: Annotated[str, Field(description="Network plug-in.", examples=["calico"])] = ""
    ingress: Annotated[str, Field(description="Ingress controller.", examples=["nginx"])] = ""
    storage_class: Annotated[
        str,
        Field(
            description="The name of the default storage class, whose volumes are directories of "
            "the nodes; none: there is no class. Default: local.",
            examples=["local-path"],
        ),
    ] = ""
    pod_subnet: Annotated[
        fields.Subnet,
        Field(
            description="The addresses of Pods; each node has a /24 of it. Default: 10.244.0.0/16.",
            examples=["10.244.0.0/16"],
        ),
    ] = None
    service_subnet: Annotated[
        fields.Subnet,
        Field(
            description="The addresses of Services. Default: 10.96.0.0/16.",
            examples=["10.96.0.0/16"],
        ),
    ] = None
    dns: Annotated[
        Dns,
        Field(
            description="Who answers for the names of Services. own: dnsmasq on the control "
            "planes; bundle: what the bundle's manifests bring, at the tenth address of "
            "service_subnet; none: nobody.",
            examples=["bundle"],
        ),
    ] = "own"
    audit: Annotated[
        bool, Field(description="Keep a log of all requests to the API.", examples=[False])
    ] = False

    @property
    def default_class(self) -> str | None:
        """The name of the storage class; None if there is to be none."""
        name = self.storage_class or "local"
        return None if name.lower() == "none" else name

    @property
    def pods(self) -> IPv4Network:
        return self.pod_subnet or IPv4Network("10.244.0.0/16")

    @property
    def services(self) -> IPv4Network:
        return self.service_subnet or IPv4Network("10.96.0.0/16")
