"""Pictures and pages, from results already computed."""
