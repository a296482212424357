"""What is compared: a file for each op, with its shapes, peers, references, costs and goals."""
