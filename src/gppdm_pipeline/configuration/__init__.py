"""The experiment as validated settings, and the layers of files that they come from."""
