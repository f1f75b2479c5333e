"""Speed of the integer model beside other means to compute a network."""
