"""All results as tables, beside what others published."""
