"""What a training will cost: operations from formulas, seconds from measured rates."""
