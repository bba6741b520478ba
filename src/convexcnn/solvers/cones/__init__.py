"""What the solvers of (R) share: walls of its cones, projections, and patches in blocks."""
