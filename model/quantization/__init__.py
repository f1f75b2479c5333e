"""A float network and calibration images become an integer network."""
