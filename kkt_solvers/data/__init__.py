"""Problems, their parts, their solutions, and the door: data only."""
