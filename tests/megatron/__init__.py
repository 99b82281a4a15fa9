"""Models of Megatron-Core, on a CPU: run where megatron-core is installed (``pip install secateur[megatron]``)."""
