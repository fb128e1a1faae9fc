"""What makes a cluster a Kubernetes cluster: its keys, its components and its manifests."""
