"""Design spaces, and files that start workers for them on clusters."""
