"""Netlists at work: from toggles to energy."""
