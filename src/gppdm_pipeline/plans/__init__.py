"""What many runs come to: records, tables, pictures. `plan.py` and `sweep.py` make them."""
