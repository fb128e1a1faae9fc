"""What the user asked for: pure, frozen, checked."""
