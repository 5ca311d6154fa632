"""Where images come from, and how they are dealt out into tasks."""
