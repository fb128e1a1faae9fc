"""The steps that any kind of cluster is made, stopped and removed by."""
