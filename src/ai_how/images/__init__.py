"""What the nodes boot: recipe, build, store."""
