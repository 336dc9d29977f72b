"""Everything is in pyproject.toml but the C extension, which is optional, and the long description."""

import os
import re
import sys
import sysconfig

from setuptools import Extension, setup

# One wheel for every version from 3.10 on; builds of Python without a GIL have no stable ABI.
STABLE_ABI = not sysconfig.get_config_var("Py_GIL_DISABLED") and sys.implementation.name == "cpython"
FOLDER = "lix_cache/huffman_codec"


def long_description():
    """Return the README with absolute links: an index shows it without the files beside it."""
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "pyproject.toml"), encoding="utf-8") as file:
        source = re.search(r'^Source = "(.+)"$', file.read(), re.MULTILINE)[1]
    with open(os.path.join(here, "README.md"), encoding="utf-8") as file:
        text = file.read()
    text = re.sub(r"(!\[[^\]]*\]\()(?![a-z]+:|#)", rf"\1{source}/raw/main/", text)
    return re.sub(r"((?<!!)\[[^\]]*\]\()(?![a-z]+:|#)", rf"\1{source}/blob/main/", text)


setup(
    long_description=long_description(),
    long_description_content_type="text/markdown",
    ext_modules=[
        Extension(
            "lix_cache.huffman_codec._speedups",
            [f"{FOLDER}/_speedups.c"],
            depends=[f"{FOLDER}/_speedups_{part}.h" for part in ("bits", "bytes", "copies", "phrases")],
            extra_compile_args=["-O3"],
            py_limited_api=STABLE_ABI,
            # Without a compiler the install succeeds, and the Python code does the work.
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if STABLE_ABI else {},
)
