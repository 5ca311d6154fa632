"""The diffusion model itself: network, noise, samplers, projection. Knows no task and no replay."""
