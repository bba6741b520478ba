"""What the interior-point method is made of: conic programs, Newton systems and directions."""
