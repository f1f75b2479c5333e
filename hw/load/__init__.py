"""The LOAD engine: from the bus to the memories and back."""
