"""The integer arithmetic, one file an operator; here a number is defined."""
