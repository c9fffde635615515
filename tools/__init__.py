"""What sets up and shows svcinit on a developer's machine."""
