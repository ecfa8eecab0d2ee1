"""Whose picture is it? Counterfactuals, their Jacobian, influence and its significance."""
