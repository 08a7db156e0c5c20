"""One replica behind vLLM's HTTP interface: the serving world's physics in real or scaled time."""
