"""Values that cross a boundary: executor ↔ platform, SDK ↔ server. Imports nothing of perdure's but ids and clock."""
