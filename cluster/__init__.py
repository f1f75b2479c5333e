"""Workers on one machine or many, for jobs that come in parts."""
