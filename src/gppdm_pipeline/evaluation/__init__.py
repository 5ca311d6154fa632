"""What is measured of a learner, and how it is drawn."""
