"""What perdure costs beside the least that the same durable rows cost here. `python -m bench --help`."""
