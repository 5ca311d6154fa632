"""What the denoiser is told of a class. Knows no network."""
