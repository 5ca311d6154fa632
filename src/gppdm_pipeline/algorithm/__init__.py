"""The method itself: torch and diffusers, no pipeline, no tracking, no data set."""
