"""How CPython is handed a program where there is no file to name: it reads the source from its standard input.

What follows the source there is the program's own input. The traceback of an uncaught error begins in the program.
"""

from __future__ import annotations

PATH = "/job/main.py"
"""What a program takes for its own name; the same as in the default sandbox. There is no such file."""

_LOADER = """
def _load(size):
    import os, sys
    source = bytearray()
    while len(source) < size:
        source += os.read(0, size - len(source))
    def hook(kind, error, trace):
        while trace is not None and trace.tb_frame.f_code.co_filename == "<string>":
            trace = trace.tb_next
        sys.__excepthook__(kind, error.with_traceback(trace), trace)
    sys.excepthook = hook
    sys.argv[:] = [PATH]
    globals()["__file__"] = PATH
    del globals()["_load"]
    return compile(bytes(source), PATH, "exec", dont_inherit=True)
exec(_load(SIZE))
"""


def python_arguments(program: bytes) -> list[str]:
    """The arguments with which CPython runs `program`, the first bytes of its standard input."""
    loader = _LOADER.replace("PATH", repr(PATH)).replace("SIZE", str(len(program)))
    # As in the default sandbox: isolated from the environment, without `site`, writing no bytecode.
    return ["python", "-I", "-S", "-B", "-c", loader]
