"""What surrounds a Kedro run: session, hooks, guard, growth, tracking.

Only Kedro's settings, plans and sweeps import it.
"""
