"""Questions of their own, each with its records, figures and tables."""
