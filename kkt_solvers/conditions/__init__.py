"""The KKT conditions: multipliers, residuals, certificates."""
