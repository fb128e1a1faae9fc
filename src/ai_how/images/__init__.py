"""The images that the nodes boot: recipe, build, store."""
