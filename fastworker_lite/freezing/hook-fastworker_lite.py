"""The whole package: some of its modules are imported by name, and one file of it is not Python.

Runs in: PyInstaller, when a program is frozen.
"""

from PyInstaller.utils.hooks import collect_data_files, collect_submodules  # type: ignore[import-untyped]

datas = collect_data_files("fastworker_lite")
hiddenimports = collect_submodules("fastworker_lite")
