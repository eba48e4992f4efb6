"""The version of this package, and how it names itself to routers."""

from __future__ import annotations

__version__ = "0.1.0"
SOFTWARE = f"troupe-python/{__version__}"
