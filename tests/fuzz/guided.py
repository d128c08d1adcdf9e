"""One target under atheris: python -m tests.fuzz.guided NAME [what libFuzzer takes]. See tests/fuzz/__main__.py."""

import sys

import atheris

# Instrumented as they are imported, here for the first time in this process.
with atheris.instrument_imports(include=["pgseal", "tomllib"]):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target.run)
    atheris.Fuzz()
