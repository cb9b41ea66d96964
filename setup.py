"""Install piker: metadata, dependencies and entry points.

Tool settings and the uv override that tractor 0.1.0a5 needs are in pyproject.toml.
"""

from pathlib import Path

from setuptools import find_packages, setup

RUNTIME = [
    "asks>=3.0,<4",
    "cryptography>=43",
    "h11>=0.14",
    "isal>=1.6",
    "keyring>=25",
    "loguru>=0.7",
    "msgspec>=0.19",
    "numpy>=1.26",
    "pandas>=2.2",
    "pendulum>=3.0",
    "polars>=2.0",
    "pyarrow>=16",
    "rapidfuzz>=3.9",
    "rich>=13.0",
    "tractor==0.1.0a5",
    "trio>=0.23.2,<0.24",
    "trio-websocket>=0.11",
    "typer>=0.12",
    "wsproto>=1.2",
    "xxhash>=3.4",
]
DEV = [
    "hypothesis>=6.100",
    "mypy>=1.11",
    "pytest>=8.2",
    "pytest-randomly>=3.15",
    "pytest-trio>=0.8",
    "pytest-xdist>=3.6",
    "ruff>=0.6",
]

setup(
    name="piker",
    version="0.1.0",
    description="A self-hosted trading stack on trio and tractor",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="AGPL-3.0-or-later",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["piker", "piker.*"]),
    package_data={"piker": ["py.typed"]},
    data_files=[("share/piker/config", ["config/conf.toml", "config/brokers.toml"])],
    install_requires=RUNTIME,
    extras_require={"dev": DEV},
    entry_points={
        "console_scripts": [
            "piker = piker.cli.__main__:main",
            "pikerd = piker.cli.__main__:pikerd_main",
            "dsm-demo-cli = piker.cli.dsm_demo_cli:main",
            "dsm-demo-module = piker.cli.dsm_demo_module:main",
        ],
        # Other people's distributions add venues here; the built-in ones need no entry.
        "piker.brokers": [],
    },
    classifiers=[
        "License :: OSI Approved :: GNU Affero General Public License v3 or later (AGPLv3+)",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
    ],
)
