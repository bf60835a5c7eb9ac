"""Web-server logs: parsing lines, building sessions, and a seeded generator of test data."""
