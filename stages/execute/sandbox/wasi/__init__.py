"""The sandbox for machines that allow neither namespaces nor Docker: CPython as WASM, in a process of its own."""
