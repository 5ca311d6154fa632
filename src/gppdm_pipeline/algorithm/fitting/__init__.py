"""How networks are fitted: batches, optimiser, schedule, processes.

Knows no method and no generator.
"""
