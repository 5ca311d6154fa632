"""In what a stream is learnt: pixels, or the features of a frozen encoder. Knows no method."""
