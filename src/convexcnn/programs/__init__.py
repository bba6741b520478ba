"""The convex programs: losses, regularisers, cones, and the neurons of their solutions."""
