"""In what a stream is learnt: pixels, latents of an autoencoder, features. Knows no method."""
