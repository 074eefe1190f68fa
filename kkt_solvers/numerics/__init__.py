"""Arrays, batches, dense factorisations, pytrees: what does not know of problems."""
