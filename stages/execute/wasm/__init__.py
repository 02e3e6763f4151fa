"""WASM modules, each execution in a process of its own that is given nothing and can be killed."""
