"""The page of the user's clusters (`hpc dashboard`) and `/metrics`, on Starlette, an extra."""
