"""Everything is in pyproject.toml but the C extension, which is optional."""

import os
import sys
import sysconfig

from setuptools import Extension, setup

# One wheel for every version from 3.10 on; builds of Python without a GIL have no stable ABI.
STABLE_ABI = not sysconfig.get_config_var("Py_GIL_DISABLED") and sys.implementation.name == "cpython"
FOLDER = "lix_cache/huffman_codec"

setup(
    ext_modules=[
        Extension(
            "lix_cache.huffman_codec._speedups",
            [f"{FOLDER}/_speedups.c"],
            depends=[f"{FOLDER}/_speedups_{part}.h" for part in ("bits", "bytes", "copies", "phrases")],
            extra_compile_args=[] if os.name == "nt" else ["-O3"],
            py_limited_api=STABLE_ABI,
            # Without a compiler the install succeeds, and the Python code does the work.
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if STABLE_ABI else {},
)
