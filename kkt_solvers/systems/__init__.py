"""The linear systems of the KKT conditions: eliminated, factorised, refined."""
