"""What is wrong with a data set: `python -m data.doctor DATA`. examine.py finds, kinds.py sums up, page.py shows."""
