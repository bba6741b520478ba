"""What a trained network looked at: maps, exact contributions, and measures of their truth."""
