"""The runtime: processor features, buffers, threads, the code cache and the execution of programs."""
