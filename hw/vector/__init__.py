"""The VECTOR engine: row reader, operators, row writer."""
