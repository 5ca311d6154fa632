"""The generator as a part of a learner: learn a task, keep bases, draw images."""
