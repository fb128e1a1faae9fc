"""The VM that boots an imported image once, so that it becomes an image of ours."""
