"""What the solvers of ridge regression share: statistics, preconditioners, refinement."""
