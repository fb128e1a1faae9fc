"""Why a step failed: what is looked at then, and what it means."""
