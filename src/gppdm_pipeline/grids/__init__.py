"""Many runs, on one machine or many: which are there, how one is made, and where."""
